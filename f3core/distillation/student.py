"""The student: the pruned model on weights of its own, and which of its blocks the teacher has too."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from f3core.adapter import Model
from f3core.engine import prune
from f3core.errors import ModelError
from f3core.plan import PruningPlan

_TAG = "f3_matched"
"""attribute of a module that names it, while copies are made"""


@dataclass(frozen=True)
class Student:
    """What is trained: ``denoiser``, the ``component`` of a ``pipeline`` that shares every other part with the
    teacher's. ``matched``: paths of blocks that both have, in the teacher and in the student; see `matched`."""

    pipeline: Any
    component: str
    denoiser: nn.Module
    matched: tuple[tuple[str, str], ...]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return next(self.denoiser.parameters()).device


def only_denoiser(model: Model) -> str:
    """The component that is trained. Raises `ModelError` for a model of several denoisers."""
    if len(model.denoisers) != 1:
        names = ", ".join(model.denoisers)
        raise ModelError(
            f"the model runs {len(model.denoisers)} denoisers ({names}), and one is trained at a time; distil a model "
            "with a single denoiser"
        )
    return next(iter(model.denoisers))


def make_student(model: Model, plan: PruningPlan) -> Student:
    """The pruned model, in training mode for gradients alone: nothing drops out, and what is fixed in the teacher, such
    as random features, stays so.

    The teacher's weights are copied, never shared, so training leaves them as they are. Raises `ModelError` for a
    model of several denoisers or of quantised weights, and for a plan under which forwards differ from step to step or
    branch to branch: a batch holds rows of many steps.
    """
    component = only_denoiser(model)
    if plan.gated():
        raise ModelError(
            f"the plan prunes {plan.scope} in some forwards only (axis {plan.axis}), and a batch of training mixes "
            "rows of all; distil with axis: layer and both branches of guidance"
        )
    teacher = model.denoisers[component]
    fixed = next((name for name, weight in teacher.named_parameters() if not weight.is_floating_point()), None)
    if fixed is not None:
        raise ModelError(f"{component} has quantised weights ({fixed}), which cannot be trained; distil it unquantised")
    with tagged(teacher, _outputs(model, component)):
        pruned = prune(model, plan)
    denoiser = copy.deepcopy(model.adapter.denoisers(pruned)[component])
    pairs = matched(denoiser)
    pipeline = model.adapter.with_denoisers(model.pipeline, {component: denoiser})
    if not any(parameter.requires_grad for parameter in denoiser.parameters()):  # frozen with the model it is a copy of
        denoiser.requires_grad_(True)
    return Student(pipeline, component, denoiser, pairs)


def _outputs(model: Model, component: str) -> list[str]:
    """Of every block, the path of the module that ends it, in the order in which they run; its output is the
    block's."""
    return [block.parts[-1].path for block in model.adapter.blocks(model.denoisers[component], component)]


@contextlib.contextmanager
def tagged(denoiser: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """While active, modules at ``paths`` carry their own path, and so does every copy of them."""
    modules = [(denoiser.get_submodule(path), path, place) for place, path in enumerate(paths)]
    try:
        for module, path, place in modules:
            vars(module)[_TAG] = (place, path)
        yield
    finally:
        for module, _, _ in modules:
            vars(module).pop(_TAG, None)


def matched(student: nn.Module) -> tuple[tuple[str, str], ...]:
    """(path in the teacher, path in the student) of the modules that surgery left of those that were `tagged` when the
    copy was made, in the order in which the teacher runs them; takes the tags away.

    A block that changed its place, because another before it has gone, is found where it is now.
    """
    found = []
    for path, module in student.named_modules():
        tag = vars(module).pop(_TAG, None)
        if tag is not None:
            found.append((*tag, path))
    return tuple((teacher, path) for _, teacher, path in sorted(found))
