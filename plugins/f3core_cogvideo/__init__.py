"""CogVideo 1 (ICLR 2023) for f3core: its transformer, generation, and the adapter.

Importing this package is cheap: everything that needs torch is imported on first use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from f3core.hookspecs import AdapterEntry, SourceEntry, hookimpl
from f3core.sites import AttentionKind, PruningAxis, Removal

_EXPORTS = {
    "CogVideoConfig": "config",
    "CogVideoPipeline": "pipeline",
    "CogVideoTransformer": "model",
    "load_published": "published",
}

__all__: list[str] = sorted(_EXPORTS)


@hookimpl
def f3core_adapters() -> list[AdapterEntry]:
    return [
        AdapterEntry(
            "cogvideo",
            "f3core_cogvideo.adapter:CogVideoAdapter",
            "CogVideo 1 (CogVideoTransformer), base and temporal channels, token by token",
            model_classes=("CogVideoTransformer",),
            default_axis=PruningAxis.LAYER,
            removals={
                AttentionKind.TEMPORAL: (Removal.SELF_ONLY, Removal.DROP),
                AttentionKind.SELF: (Removal.OMIT,),
                AttentionKind.CROSS: (Removal.OMIT,),
            },
        ),
    ]


@hookimpl
def f3core_sources() -> list[SourceEntry]:
    folder = Path(__file__).resolve().parent / "sizes" / "stage-1"
    return [SourceEntry("cogvideo:stage-1", str(folder), "the published sizes without weights, for f3core plan")]


@hookimpl
def f3core_denoiser_classes(source: str) -> Mapping[str, str] | None:
    """Those of a folder that `CogVideoPipeline` wrote."""
    try:
        index = json.loads((Path(source).expanduser() / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(index, dict) or index.get("_class_name") != "CogVideoPipeline":
        return None
    return {name: value[1] for name, value in index.items() if name.startswith("transformer") and value}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
