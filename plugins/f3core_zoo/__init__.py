"""The zoo: small models, trained for real, with prompts to run them on and a judge of what they make.

``zoo:digits-wan`` is a stock Wan pipeline that draws moving handwritten digits, ``zoo:digits-cogvideo`` and
``zoo:digits-tune-a-video`` are the systems of the F3-Pruning paper on the same digits; see README.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

from f3core.hookspecs import Entry, SourceEntry, hookimpl

_HERE = Path(__file__).resolve().parent


@hookimpl
def f3core_sources() -> list[SourceEntry]:
    return [
        SourceEntry(f"zoo:digits-{name}", str(_HERE / folder), f"moving digits: a trained mini {family}")
        for name, folder, family in (
            ("wan", "digits_wan", "WanPipeline"),
            ("cogvideo", "digits_cogvideo", "CogVideo, stage 1"),
            ("tune-a-video", "digits_tuneavideo", "Tune-A-Video"),
        )
    ]


@hookimpl
def f3core_prompts() -> list[Entry]:
    return [Entry("zoo:digits", "f3core_zoo.plugins:Digits", "captions such as 'a red three moving left'")]


@hookimpl
def f3core_datasets() -> list[Entry]:
    return [Entry("zoo:digits", "f3core_zoo.digits_data:DigitsData", "moving digits, rendered by number: 16 x 16")]


@hookimpl
def f3core_metrics() -> list[Entry]:
    return [
        Entry("text_accuracy", "f3core_zoo.plugins:TextAccuracy", "share of clips that show what the caption says"),
        Entry("frechet_video", "f3core_zoo.plugins:FrechetVideo", "Fréchet distance to real clips of digits"),
    ]


@hookimpl
def f3core_features() -> list[Entry]:
    return [Entry("zoo:judge", "f3core_zoo.plugins:JudgeFeatures", "the judge of the digit world: clips of 16 x 16")]
