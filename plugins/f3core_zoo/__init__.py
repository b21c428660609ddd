"""The zoo: small models, trained for real, with prompts to run them on and a judge of what they make.

``zoo:digits-wan`` is a stock Wan pipeline that draws moving handwritten digits; see README.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

from f3core.hookspecs import Entry, SourceEntry, hookimpl

_HERE = Path(__file__).resolve().parent


@hookimpl
def f3core_sources() -> list[SourceEntry]:
    return [SourceEntry("zoo:digits-wan", str(_HERE / "digits_wan"), "moving digits: a trained mini WanPipeline")]


@hookimpl
def f3core_prompts() -> list[Entry]:
    return [Entry("zoo:digits", "f3core_zoo.plugins:Digits", "captions such as 'a red three moving left'")]


@hookimpl
def f3core_metrics() -> list[Entry]:
    return [
        Entry("text_accuracy", "f3core_zoo.plugins:TextAccuracy", "share of clips that show what the caption says"),
        Entry("frechet_video", "f3core_zoo.plugins:FrechetVideo", "Fréchet distance to real clips of digits"),
    ]
