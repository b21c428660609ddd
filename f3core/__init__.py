"""f3core: prune temporal attention out of text-to-video models.

    import f3core

    result = f3core.apply("spec.yaml")  # or a Spec, and optionally pipeline=...
    print(result.report)

Names are imported when first used, so that ``import f3core`` is cheap and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from f3core.adapter import Adapter
    from f3core.engine import Result, apply
    from f3core.errors import F3Error
    from f3core.hookspecs import AdapterEntry, Entry, SourceEntry, hookimpl
    from f3core.method import Criterion, Method, PromptSet
    from f3core.metric import Metric
    from f3core.plan import PruningPlan
    from f3core.scores import Scores
    from f3core.spec import Spec, load_spec
    from f3core.surgery import apply_plan_

__all__ = [
    "Adapter",
    "AdapterEntry",
    "Criterion",
    "Entry",
    "F3Error",
    "Method",
    "Metric",
    "PromptSet",
    "PruningPlan",
    "Result",
    "Scores",
    "SourceEntry",
    "Spec",
    "apply",
    "apply_plan_",
    "hookimpl",
    "load_spec",
]
__version__ = "0.1.0"

_HOMES = {
    "adapter": ("Adapter",),
    "engine": ("Result", "apply"),
    "errors": ("F3Error",),
    "hookspecs": ("AdapterEntry", "Entry", "SourceEntry", "hookimpl"),
    "method": ("Criterion", "Method", "PromptSet"),
    "metric": ("Metric",),
    "plan": ("PruningPlan",),
    "scores": ("Scores",),
    "spec": ("Spec", "load_spec"),
    "surgery": ("apply_plan_",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"f3core.{_HOME[name]}"), name)
    raise AttributeError(f"module 'f3core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
