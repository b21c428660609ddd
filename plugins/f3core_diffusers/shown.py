"""What a pipeline gives its denoiser: a generation is begun, and cut off at the first forward of a guidance branch."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from f3core.errors import ModelError
from f3core.sites import Layout

if TYPE_CHECKING:
    from f3core_diffusers.base import DiffusersAdapter


@dataclass(frozen=True)
class Forward:
    """One row of a forward: its arguments by name, the layout of that row, ``scale``, the share of the scheduler's
    timestep that its own is, and the ``mu`` by which the pipeline had the scheduler shift levels, if it had."""

    arguments: dict[str, Any]
    layout: Layout
    scale: float
    mu: float | None


class _Shown(Exception):
    """The denoiser has shown what it is given; the generation need not go on."""


@torch.no_grad()
def first_forward(
    adapter: DiffusersAdapter, pipeline: Any, prompt: str, call: Mapping[str, Any], *, conditional: bool = True
) -> Forward:
    """Of a generation for one prompt, the row of the conditional branch, or of the unconditional one if there is any.

    Raises `ModelError` when the generation does not run, or comes by no such forward.
    """
    denoisers = adapter.denoisers(pipeline)
    seen = list[Forward]()
    told = dict[str, Any]()
    met = 0

    def note(component: str, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal met
        layout = adapter.layout(denoiser, args, kwargs)
        if layout is None:
            return
        row = _row(adapter, pipeline, component, (args, kwargs), layout, call, met, conditional)
        met += 1
        if row is not None:
            taken = adapter.take_rows(_named(denoiser, args, kwargs), layout, range(row, row + 1))
            own = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), taken)
            seen.append(Forward(own, replace(layout, batch=1), _scale(pipeline, own["timestep"]), told.get("mu")))
            raise _Shown

    with contextlib.ExitStack() as stack:
        stack.enter_context(adapter.observable(pipeline))
        stack.enter_context(_listening(pipeline.scheduler, told))
        for name, denoiser in denoisers.items():
            hook = functools.partial(note, name)
            stack.callback(denoiser.register_forward_pre_hook(hook, with_kwargs=True).remove)
        # What a pipeline draws without the generator that it is given must not change what a training draws.
        device = next(next(iter(denoisers.values())).parameters()).device
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(0)
        with contextlib.suppress(_Shown):
            adapter.generate(pipeline, [prompt], steps=2, seeds=[0], call=call)
    if not seen:
        branch = "conditional" if conditional else "unconditional"
        raise ModelError(
            f"a generation of {type(pipeline).__name__} came by no forward of guidance's {branch} branch in {met}, so "
            "what denoisers are given there is not known"
        )
    return seen[0]


def _row(
    adapter: DiffusersAdapter,
    pipeline: Any,
    component: str,
    forward: tuple[tuple[Any, ...], dict[str, Any]],
    layout: Layout,
    call: Mapping[str, Any],
    number: int,
    conditional: bool,
) -> int | None:
    """The row of a forward, the ``number``-th of a generation, that is of the branch asked for; None when none is."""
    try:
        weights = adapter.branches(pipeline, component, call)
    except ModelError:  # guidance that changes from step to step
        weights = (1.0, 0.0) if adapter.conditional_first else (0.0, 1.0)
    if len(weights) == 1:  # unguided: its one branch is the conditional one, whatever is asked for
        return 0
    unconditional = adapter.unconditional_rows(adapter.denoisers(pipeline)[component], *forward)
    if unconditional is None:
        wanted = weights.index(max(weights) if conditional else min(weights))
        if layout.batch == 1:  # one branch after the other
            return 0 if number == wanted else None
        return wanted * layout.batch // len(weights)
    rows = [row for row in range(layout.batch) if (row in unconditional) != conditional]
    return rows[0] if rows else None


def _scale(pipeline: Any, timestep: Any) -> float:
    """The share of the scheduler's first timestep that the denoiser is told."""
    first = float(pipeline.scheduler.timesteps[0])
    shown = float(timestep.max()) if isinstance(timestep, Tensor) else float(timestep)
    if not first or not shown:
        raise ModelError(f"{type(pipeline).__name__} counts timesteps from 0 at pure noise, which is not known here")
    return shown / first


@contextlib.contextmanager
def _listening(scheduler: Any, told: dict[str, Any]) -> Iterator[None]:
    """Until the block ends, what the scheduler's timesteps are set with is noted."""
    plain = scheduler.set_timesteps

    @functools.wraps(plain)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        told.update(kwargs)
        return plain(*args, **kwargs)

    vars(scheduler)["set_timesteps"] = set_timesteps
    try:
        yield
    finally:
        del vars(scheduler)["set_timesteps"]


def _named(denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by keyword, so that they can be passed on without knowing their order."""
    return {**dict(zip(parameters(denoiser), args, strict=False)), **kwargs}


def parameters(denoiser: nn.Module) -> list[str]:
    """Names of the arguments of a denoiser's forward."""
    return [name for name in inspect.signature(type(denoiser).forward).parameters if name != "self"]
