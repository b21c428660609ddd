"""Tune-A-Video (arXiv 2212.11565) on current diffusers: the inflated Stable Diffusion U-Net, its pipeline and adapter.

Importing the package costs nothing: torch and diffusers come in with the first name asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "TuneAVideoUNet": "unet",
    "load_published": "weights",
    "inflate": "weights",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
