"""Guidance by a pipeline's ``guider`` component: how many forwards a step takes, and what each weighs.

A guider runs the denoiser once a condition, the one with the caption first. Its own state is left alone.
"""

from __future__ import annotations

import copy
from typing import Any

from f3core.errors import ModelError


def guided_rows(guider: Any, steps: int) -> tuple[int, ...]:
    """Rows of one clip at each of ``steps`` steps; guiders may begin late and stop early."""
    return tuple(_at(guider, step, steps).num_conditions for step in range(steps))


def guided_branches(guider: Any) -> tuple[float, ...]:
    """As `Adapter.branches`, of the steps that are guided.

    Raises `ModelError` for a guider other than of two conditions and one scale.
    """
    conditions = _at(guider, 0, None).num_conditions
    if conditions == 1:
        return (1.0,)
    scale = getattr(guider, "guidance_scale", None)
    if conditions > 2 or scale is None:
        raise ModelError(
            f"{type(guider).__name__} weighs {conditions} conditions in a way that is not known here; "
            "set pipeline.guider to a ClassifierFreeGuidance, or choose a criterion that tries no removals"
        )
    # from the prediction with the caption, or from the one without
    scale = float(scale) + float(guider.use_original_formulation)
    return scale, 1 - scale


def _at(guider: Any, step: int, steps: int | None) -> Any:
    """A copy of a guider in the given step; None: in one that it guides."""
    other = copy.copy(guider)
    other.set_state(step=step, num_inference_steps=steps, timestep=None)
    return other
