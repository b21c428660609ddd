"""f3core for the text-to-video models of diffusers: one adapter per family.

A pruned denoiser is saved under a class of this package, ``Pruned<its class>``, so that plain
``diffusers.DiffusionPipeline.from_pretrained(folder)`` loads it wherever f3core is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f3core.hookspecs import AdapterEntry, Entry, hookimpl
from f3core_diffusers.families import FAMILIES, UNSUPPORTED

if TYPE_CHECKING:
    from f3core.scaffolding.scaffold import Subject

__all__: list[str] = []


@hookimpl
def f3core_adapters() -> list[AdapterEntry]:
    return FAMILIES


@hookimpl
def f3core_unsupported() -> Mapping[str, str]:
    return UNSUPPORTED


@hookimpl
def f3core_accelerators() -> list[Entry]:
    caches = [
        ("pab", "PyramidAttentionBroadcast", "attention outputs reused over steps"),
        ("first_block_cache", "FirstBlockCache", "the other blocks' residual reused while the first's changes little"),
        ("faster_cache", "FasterCache", "attention and the unconditional branch extrapolated"),
        ("mag_cache", "MagCache", "the blocks' residual reused by magnitudes measured before"),
        ("taylorseer", "TaylorSeer", "outputs of attention extrapolated over steps"),
        ("sea_cache", "SeaCache", "the blocks' residual reused while filtered latents change little; Wan"),
    ]
    return [
        *(Entry(name, f"f3core_diffusers.accelerators:{target}", summary) for name, target, summary in caches),
        Entry("layer_skip", "f3core_diffusers.accelerators_skip:LayerSkip", "blocks, or parts of them, left out"),
        Entry("cache_dit", "f3core_diffusers.accelerators_cache_dit:CacheDiT", "DBCache of the package cache-dit"),
    ]


@hookimpl
def f3core_denoiser_classes(source: str) -> Mapping[str, str] | None:
    """Read ``model_index.json``, from the hub where there is no such folder."""
    folder = Path(source)
    if not folder.is_dir():
        try:
            from f3core_diffusers.hub import model_index
        except ImportError:
            return None
        return _denoisers(model_index(source))
    try:
        return _denoisers(json.loads((folder / "model_index.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


@hookimpl
def f3core_skeletons(source: str) -> Mapping[str, tuple[Any, Mapping[str, Any]]] | None:
    """A pipeline's folder, or one component's."""
    try:
        from f3core_diffusers.folders import skeletons
    except ImportError:
        return None
    return skeletons(Path(source))


@hookimpl
def f3core_adapter_draft(subject: Subject) -> str | None:
    """For models of diffusers' own making, there or elsewhere."""
    try:
        from diffusers import ModelMixin

        from f3core_diffusers.scaffold import draft
    except ImportError:
        return None
    return draft(subject) if issubclass(subject.model_class, ModelMixin) else None


def _denoisers(index: Any) -> dict[str, str]:
    """Components named transformer* or unet* are denoisers; a pruned one counts as what it was pruned from."""
    found = {}
    for name, value in index.items() if isinstance(index, dict) else ():
        if name.startswith(("transformer", "unet")) and isinstance(value, list | tuple) and len(value) == 2:
            class_name = value[1]
            if isinstance(class_name, str):
                found[name] = class_name.removeprefix("Pruned")
    return found


def __getattr__(name: str) -> Any:
    """``PrunedX`` for any diffusers model class ``X``, by the name in ``model_index.json``.

    diffusers also looks up ``ModelMixin`` in the package of a component's class, to learn how to load it.
    """
    if name == "ModelMixin" or name.startswith("Pruned"):
        import diffusers

        base = getattr(diffusers, name.removeprefix("Pruned"), None)
        if base is not None and name.startswith("Pruned"):
            from f3core_diffusers.pruned import pruned_model_class

            return pruned_model_class(base)
        if base is not None:
            return base
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
