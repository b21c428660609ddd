"""Tries removals out on a few prompts, to learn what they do to the model's output: `ablate` measures an `Impact`.

Attention scores say what a site does; they do not say how much of it arrives in the clip. Two measurements do: one site
at a time, in one forward, how far the denoiser's prediction moves; and all sites together, over a range of steps, how
far the clip does.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from f3core.block import Block, Site
from f3core.block_changes import block_changes
from f3core.errors import ModelError
from f3core.evaluate import Progress, generate
from f3core.impact import Array, Impact
from f3core.meta import share_copy
from f3core.plan import StepRange
from f3core.probe import replaced_forward
from f3core.sites import Removal, Structure, Target
from f3core.surgery import restrict_
from f3core.workspace import written

if TYPE_CHECKING:
    from f3core.adapter import Adapter


def ablate(
    adapter: Adapter,
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int,
    seeds: Sequence[int],
    call: Mapping[str, Any],
    target: Target,
    removals: Mapping[str, Removal],
    ranges: Sequence[StepRange],
    levels: Mapping[str, Sequence[float]],
    batch_size: int,
    sensed: int,
    clips: Tensor | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Impact:
    """The impact of ``removals`` (by site fqn) of ``target``: a generation of the first ``sensed`` of ``prompts`` in
    which sites are tried one by one, in the first step of each range, and a generation of all of them a range.

    ``levels`` are the noise levels at which each component runs in a generation. ``clips`` [P, F, 3, H, W] of the
    unpruned model, if they are there already; else they are made. With ``folder``, which is of this one impact,
    finished generations are kept there and read, not run again. Raises `ModelError` where a denoiser does not run as
    the adapter says.
    """
    denoisers = adapter.denoisers(pipeline)
    sites = {
        name: [site for site in adapter.places(denoiser, name, target) if site.fqn in removals]
        for name, denoiser in denoisers.items()
    }
    branches = {name: tuple(adapter.branches(pipeline, name, call)) for name in denoisers}
    total = 2 + len(ranges)

    def made(of: Any) -> Tensor:
        with adapter.observable(of):  # as the clips of scoring are made
            return generate(adapter, of, prompts, steps=steps, seeds=seeds, call=call, batch_size=batch_size).clips

    def sense() -> dict[str, Array]:
        parts = []
        for start in range(0, sensed, batch_size):
            some = slice(start, min(start + batch_size, sensed))
            sensors = [
                Sensor(adapter, denoisers[name], sites[name], target, removals, branches[name], _firsts(ranges, runs))
                for name, runs in levels.items()
            ]
            with ExitStack() as stack, torch.no_grad():
                stack.enter_context(adapter.observable(pipeline))
                for name, sensor in zip(levels, sensors, strict=True):
                    sensor.prompts = len(prompts[some])
                    stack.enter_context(replaced_forward(denoisers[name], sensor.around))
                adapter.generate(pipeline, prompts[some], steps=steps, seeds=seeds[some], call=call)
            parts.append([sensor.drifts(len(ranges)) for sensor in sensors])
        most = max(apart.shape[2] for _, apart in parts[0])
        return {
            "output_drift": _joined([[together for together, _ in part] for part in parts]),
            "branch_drift": _joined([[_padded(apart, most) for _, apart in part] for part in parts]),
        }

    def harm(k: int, usual: Array) -> dict[str, Array]:
        when = None if len(ranges) == 1 else frozenset({k})
        pruned = {name: share_copy(denoiser) for name, denoiser in denoisers.items()}
        for name, denoiser in pruned.items():
            gates = {site.fqn: when for site in sites[name]}
            restrict_(denoiser, adapter, sites[name], target, removals, gates, () if when is None else ranges)
        found = made(adapter.with_denoisers(pipeline, pruned)).numpy()
        errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(found, usual, strict=True)]
        return {"damage": np.array(errors)}

    def change() -> dict[str, Array]:
        blocks = {name: [site for site in some if isinstance(site, Block)] for name, some in sites.items()}
        some = slice(sensed)
        found = block_changes(adapter, pipeline, blocks, prompts[some], steps=steps, seeds=seeds[some], call=call)
        return {"change": found}

    found = _kept(folder, "sensed", sense)
    if target is Structure.BLOCK:
        found |= _kept(folder, "changes", change)
    if progress:
        progress(1, total)
    if clips is not None:
        usual = clips.numpy()
    else:
        usual = _kept(folder, "reference", lambda: {"clips": made(pipeline).numpy()})["clips"]
    damage = []
    for k in range(len(ranges)):
        if progress:
            progress(2 + k, total)
        damage.append(_kept(folder, f"range-{k}", functools.partial(harm, k, usual))["damage"])
    if progress:
        progress(total, total)
    return Impact(
        target,
        {site.fqn: removals[site.fqn] for name in levels for site in sites[name]},
        tuple(ranges),
        branches,
        np.stack(damage),
        found["output_drift"],
        found["branch_drift"],
        *([found["change"]] if "change" in found else []),
    )


def _firsts(ranges: Sequence[StepRange], levels: Sequence[float]) -> dict[float, int]:
    """The first of a component's noise levels in each range in which it has one, with the number of that range."""
    inside = [[level for level in levels if level in step_range] for step_range in ranges]
    return {some[0]: k for k, some in enumerate(inside) if some}


def _joined(parts: Sequence[Sequence[Array]]) -> Array:
    """Of batches of prompts (the last axis) and of components (the second)."""
    return np.concatenate([np.concatenate(part, axis=1) for part in parts], axis=-1)


def _padded(apart: Array, branches: int) -> Array:
    return np.pad(apart, ((0, 0), (0, 0), (0, branches - apart.shape[2]), (0, 0)))


def _kept(folder: Path | None, name: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """What ``make`` gives, or gave before."""
    if folder is None:
        return make()
    file = folder / f"{name}.safetensors"
    if not file.exists():
        with written(file) as unfinished:
            save_file({key: np.ascontiguousarray(value) for key, value in make().items()}, unfinished)
    found: dict[str, Array] = load_file(file)
    return found


class Sensor:
    """Runs a denoiser's forwards at some noise levels once more for every site, with that site alone restricted.

    ``firsts``: those levels, with the number of the range that each begins. Rows of a batch are ``prompts`` in turn,
    guidance branches outermost; or the branches come in one forward after the other.
    """

    def __init__(
        self,
        adapter: Adapter,
        denoiser: nn.Module,
        sites: Sequence[Site],
        target: Target,
        removals: Mapping[str, Removal],
        branches: tuple[float, ...],
        firsts: Mapping[float, int],
        prompts: int = 1,
    ) -> None:
        self.prompts = prompts
        self._adapter = adapter
        self._denoiser = denoiser
        self._sites = sites
        self._branches = branches
        self._firsts = firsts
        self._restricted = share_copy(denoiser)
        gates = {site.fqn: frozenset({i}) for i, site in enumerate(sites)}
        # the step ranges stand for the sites: `hold` turns one of them on, whatever the noise level
        self._clock = restrict_(self._restricted, adapter, sites, target, removals, gates)
        self._seen: dict[str, list[Tensor]] = {}
        """of the running range, by kind of forward: predictions [1 + S, P, ...] of each branch, the usual one first"""
        self._range: int | None = None
        self._found: dict[int, tuple[Array, Array]] = {}

    def around(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The denoiser's forward, after the restricted ones where it is one to try."""
        layout = self._adapter.layout(self._denoiser, args, kwargs)
        if layout is None or not self._sites:
            return forward(*args, **kwargs)
        k = self._firsts.get(self._adapter.noise_level(args, kwargs))
        if k != self._range:
            self._reduce()
            self._range = k
        if k is None:
            return forward(*args, **kwargs)
        tried = []
        for i in range(len(self._sites)):
            again = copy.deepcopy((args, kwargs))  # a forward may alter what it is given, such as a cache
            with self._clock.hold(i):
                tried.append(_prediction(self._restricted(*again[0], **again[1])))
        out = forward(*args, **kwargs)
        predicted = torch.stack([_prediction(out), *tried])
        if predicted.shape[1] % self.prompts:
            raise ModelError(f"a forward of {predicted.shape[1]} rows cannot be shared by {self.prompts} prompts")
        by_branch = predicted.view(len(predicted), -1, self.prompts, *predicted.shape[2:]).unbind(1)
        self._seen.setdefault(layout.kind, []).extend(by_branch)
        return out

    def _reduce(self) -> None:
        """Keep of the range that ran how far predictions moved, and not the predictions."""
        if self._range is None:
            return
        together = np.zeros((len(self._sites), self.prompts))
        apart = np.zeros((len(self._sites), len(self._branches), self.prompts))
        conditional = self._branches.index(max(self._branches))
        for predicted in self._seen.values():
            weights = self._branches if len(predicted) > 1 else (1.0,)  # a step may go without guidance
            times, left = divmod(len(predicted), len(weights))
            if left or (times > 1 and not self._adapter.several_kinds):
                raise ModelError(
                    f"{len(predicted)} guidance branches ran at a step, but adapter {self._adapter.name!r} names "
                    f"{len(weights)} for these arguments of generation; see its `branches`"
                )
            for first in range(0, len(predicted), len(weights)):
                parts = [w * part.double() for w, part in zip(weights, predicted[first:], strict=False)]
                usual = torch.stack([part[0] for part in parts]).sum(0)
                changes = torch.stack([part[1:] - part[0] for part in parts])
                together += self._distances(usual, changes.sum(0))
                for b, change in enumerate(changes):
                    apart[:, b if len(changes) > 1 else conditional] += self._distances(usual, change)
        before = self._found.get(self._range, (0.0, 0.0))  # where clips are made chunk by chunk, levels come again
        self._found[self._range] = (before[0] + together, before[1] + apart)
        self._seen = {}

    def drifts(self, ranges: int) -> tuple[Array, Array]:
        """``output_drift`` [K, S, P] and ``branch_drift`` [K, S, B, P] of an `Impact`, summed over the forwards of a
        step; 0 in ranges in which the denoiser does not run.

        Raises `ModelError` when other branches ran than the adapter says, or it did not run where it should.
        """
        self._reduce()
        missing = set(self._firsts.values()) - self._found.keys() if self._sites else set()
        if missing:
            level = next(level for level, k in self._firsts.items() if k in missing)
            raise ModelError(f"a denoiser did not run at noise level {level:g}, as it did while it was scored")
        nothing = np.zeros((len(self._sites), self.prompts))
        empty = (nothing, np.repeat(nothing[:, None], len(self._branches), axis=1))
        found = [self._found.get(k, empty) for k in range(ranges)]
        return np.stack([together for together, _ in found]), np.stack([apart for _, apart in found])

    def _distances(self, usual: Tensor, changes: Tensor) -> Array:
        """[S, P], how far ``changes`` [S, P, ...] take the guided prediction from the ``usual`` one [P, ...]."""
        found: Array = torch.stack([self._adapter.distance(usual, usual + one) for one in changes]).cpu().numpy()
        return found


def _prediction(out: Any) -> Tensor:
    """The tensor that a forward predicts, or the first of several."""
    while not isinstance(out, Tensor):
        out = next(iter(out.values() if isinstance(out, Mapping) else _first_of(out)))
    return out.float()


def _first_of(out: Any) -> Iterable[Any]:
    if isinstance(out, (list, tuple)) and out:
        return out
    raise ModelError(f"a denoiser returned {type(out).__name__}, in which no tensor is found")
