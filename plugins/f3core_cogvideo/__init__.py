"""CogVideo 1 (ICLR 2023) for f3core: its transformer, generation, and the adapter.

Importing this package is cheap: everything that needs torch is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "CogVideoConfig": "config",
    "CogVideoTransformer": "model",
    "load_published": "published",
}

__all__: list[str] = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
