"""The plan that a pruned model's own config carries, and weights laid in memory as a model's own are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from torch import nn

from f3core.errors import ModelError
from f3core.plan import PruningPlan
from f3core.surgery import apply_plan_

if TYPE_CHECKING:
    from f3core.adapter import Adapter

CONFIG_KEY = "f3core"
"""under which ``config.json`` has what `carried` gives"""

ALIGNMENT = 64
"""bytes; what torch's own allocator gives on the CPU"""


def carried(plan: PruningPlan, component: str, before: Sequence[PruningPlan] = ()) -> dict[str, Any]:
    """What the config of a denoiser pruned by ``plan`` carries, as JSON takes it. ``before``: the plans that had been
    carried out on it before."""
    found = {"component": component, "plan": plan.model_dump(mode="json")}
    return found | ({"before": [one.model_dump(mode="json") for one in before]} if before else {})


def apply_carried_(model: nn.Module, found: Any, *, where: str, adapter: Adapter | None = None) -> None:
    """Prune an unpruned model, best on meta, as what its config carries says: ``found``, made by `carried`.

    ``adapter`` None takes the one that the plan names. Raises `ModelError`, naming ``where`` it was found, for
    anything that `carried` does not make, and `PlanError` for a plan of another model.
    """
    try:
        plans = [PruningPlan.model_validate(plan) for plan in (*found.get("before", ()), found["plan"])]
        component = str(found["component"])
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the plan in {where} is damaged: {error}") from error
    if adapter is None:
        from f3core.registry import installed

        adapter = installed().make("adapter", plans[-1].adapter)
    for plan in plans:
        apply_plan_(model, plan, adapter, component)


def aligned_(model: nn.Module) -> None:
    """Copy tensors on the CPU that lie unaligned, as those of a memory-mapped file may.

    Kernels choose another path for them, so the same weights loaded from two files would differ in the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
