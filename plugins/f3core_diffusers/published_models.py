"""Published models of an adapter's family: their configs, beside its module, as ``published/<module>.json``.

A model there has a ``name``, a ``source``, the ``component`` and its diffusers ``class``, the ``config`` as far as it
is not the class's default, the default ``clip`` in words and as latent ``frames``, ``height`` and ``width``, the number
of ``text`` tokens (null: the usual), of ``steps`` and of denoiser ``rows`` a step; ``adapter``, where a module has
several.
"""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch

from f3core.adapter import Published, Sketch
from f3core.sites import FORWARD

if TYPE_CHECKING:
    from f3core_diffusers.base import DiffusersAdapter


def published_models(adapter: DiffusersAdapter) -> tuple[Published, ...]:
    """Those of the adapter's own module; none when it has no such file."""
    module = Path(inspect.getfile(type(adapter)))
    path = module.parent / "published" / f"{module.stem}.json"
    if not path.is_file():
        return ()
    listed = json.loads(path.read_text(encoding="utf-8"))["models"]
    return tuple(
        Published(told["name"], told["source"], told["clip"], functools.partial(_sketch, adapter, told))
        for told in listed
        if told.get("adapter", adapter.name) == adapter.name
    )


def _sketch(adapter: DiffusersAdapter, told: dict[str, Any]) -> Sketch:
    component, size = told["component"], {name: told[name] for name in ("frames", "height", "width", "text")}
    with torch.device("meta"):
        denoiser = getattr(diffusers, told["class"])(**told["config"]).eval()
        inputs = adapter.example_inputs(denoiser, **size)
    levels = tuple(float(step) for step in range(told["steps"], 0, -1))
    return Sketch(
        {component: denoiser},
        {component: {FORWARD: inputs}},
        levels,
        {component: {FORWARD: (told["rows"],) * told["steps"]}},
    )
