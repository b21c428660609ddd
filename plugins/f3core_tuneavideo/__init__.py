"""Tune-A-Video (arXiv 2212.11565) on current diffusers: the inflated Stable Diffusion U-Net, its pipeline and adapter.

Importing the package costs nothing: torch and diffusers come in with the first name asked for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from f3core.hookspecs import AdapterEntry, SourceEntry, hookimpl
from f3core.sites import AttentionKind, PruningAxis, Removal

_HOMES = {
    "TuneAVideoAdapter": "adapter",
    "TuneAVideoPipeline": "pipeline",
    "TuneAVideoUNet": "unet",
    "inflate": "weights",
    "load_pipeline": "loading",
    "load_published": "weights",
}


@hookimpl
def f3core_adapters() -> list[AdapterEntry]:
    return [
        AdapterEntry(
            "tune-a-video",
            "f3core_tuneavideo.adapter:TuneAVideoAdapter",
            "Tune-A-Video (TuneAVideoUNet), Stable Diffusion inflated to video",
            model_classes=("TuneAVideoUNet",),
            default_axis=PruningAxis.TIMESTEP,
            removals={
                AttentionKind.TEMPORAL: (Removal.SELF_ONLY, Removal.DROP),
                AttentionKind.SELF: (Removal.MASK,),
                AttentionKind.CROSS: (Removal.DROP,),
            },
        ),
    ]


@hookimpl
def f3core_sources() -> list[SourceEntry]:
    folder = Path(__file__).resolve().parent / "sizes" / "sd-1.4"
    return [SourceEntry("tune-a-video:sd-1.4", str(folder), "the published sizes without weights, for f3core plan")]


@hookimpl
def f3core_denoiser_classes(source: str) -> Mapping[str, str] | None:
    """Checkpoints of the published code base, whose U-Net has the name of another one in diffusers."""
    try:
        index = json.loads((Path(source) / "model_index.json").read_text(encoding="utf-8"))
        published = index["_class_name"] == "TuneAVideoPipeline"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {"unet": "TuneAVideoUNet"} if published else None


def __getattr__(name: str) -> Any:
    """What the package offers, and what diffusers looks up here to load a saved pipeline."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name == "PrunedTuneAVideoUNet":
        from f3core_diffusers.pruned import pruned_model_class

        from f3core_tuneavideo.unet import TuneAVideoUNet

        return pruned_model_class(TuneAVideoUNet, __name__)
    if name == "ModelMixin":
        import diffusers

        return diffusers.ModelMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
