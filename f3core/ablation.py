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

from f3core.errors import ModelError
from f3core.evaluate import Progress, generate
from f3core.impact import Array, Impact
from f3core.meta import share_copy
from f3core.plan import StepRange
from f3core.probe import replaced_forward
from f3core.sites import AttentionKind, AttentionSite, Removal
from f3core.surgery import restrict_

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
    target: AttentionKind,
    removals: Mapping[str, Removal],
    ranges: Sequence[StepRange],
    levels: Sequence[float],
    batch_size: int,
    sensed: int,
    clips: Tensor | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Impact:
    """The impact of ``removals`` (by site fqn) of ``target``: a generation of the first ``sensed`` of ``prompts`` in
    which sites are tried one by one, in the first step of each range, and a generation of all of them a range.

    ``levels`` are the noise levels of a generation. ``clips`` [P, F, 3, H, W] of the unpruned model, if they are there
    already; else they are made. With ``folder``, finished generations are kept there and read, not run again. Raises
    `ModelError` where a denoiser does not run as the adapter says.
    """
    denoisers = adapter.denoisers(pipeline)
    sites = {
        name: [site for site in adapter.sites(denoiser, name) if site.fqn in removals]
        for name, denoiser in denoisers.items()
    }
    branches = {name: tuple(adapter.branches(pipeline, name, call)) for name in denoisers}
    firsts = {next(level for level in levels if level in r): k for k, r in enumerate(ranges)}
    total = 2 + len(ranges)

    def made(of: Any) -> dict[str, Array]:
        found = generate(adapter, of, prompts, steps=steps, seeds=seeds, call=call, batch_size=batch_size)
        return {"clips": found.clips.numpy()}

    def sense() -> dict[str, Array]:
        sensors = {
            name: Sensor(adapter, denoiser, sites[name], target, removals, branches[name], firsts, sensed)
            for name, denoiser in denoisers.items()
        }
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(adapter.observable(pipeline))
            for name, sensor in sensors.items():
                stack.enter_context(replaced_forward(denoisers[name], sensor.around))
            adapter.generate(pipeline, prompts[:sensed], steps=steps, seeds=seeds[:sensed], call=call)
        together, apart = zip(*(sensor.drifts(len(ranges)) for sensor in sensors.values()), strict=True)
        most = max(part.shape[2] for part in apart)
        apart = tuple(np.pad(part, ((0, 0), (0, 0), (0, most - part.shape[2]), (0, 0))) for part in apart)
        return {
            "output_drift": np.concatenate(together, axis=1),
            "branch_drift": np.concatenate(apart, axis=1),
        }

    def harm(k: int, usual: Array) -> dict[str, Array]:
        when = None if len(ranges) == 1 else frozenset({k})
        pruned = {name: share_copy(denoiser) for name, denoiser in denoisers.items()}
        for name, denoiser in pruned.items():
            gates = {site.fqn: when for site in sites[name]}
            restrict_(denoiser, adapter, sites[name], target, removals, gates, () if when is None else ranges)
        error = made(adapter.with_denoisers(pipeline, pruned))["clips"].astype(np.float64) - usual
        return {"damage": np.square(error).mean(axis=(1, 2, 3, 4))}

    found = _kept(folder, "sensed", sense)
    if progress:
        progress(1, total)
    usual = _kept(folder, "reference", functools.partial(made, pipeline))["clips"] if clips is None else clips.numpy()
    damage = []
    for k in range(len(ranges)):
        if progress:
            progress(2 + k, total)
        damage.append(_kept(folder, f"range-{k}", functools.partial(harm, k, usual))["damage"])
    if progress:
        progress(total, total)
    return Impact(
        target,
        {site.fqn: removals[site.fqn] for listed in sites.values() for site in listed},
        tuple(ranges),
        branches,
        np.stack(damage),
        found["output_drift"],
        found["branch_drift"],
    )


def _kept(folder: Path | None, name: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """What ``make`` gives, or gave before."""
    if folder is None:
        return make()
    file = folder / f"{name}.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".tmp")
        save_file({key: np.ascontiguousarray(value) for key, value in make().items()}, unfinished)
        unfinished.replace(file)
    found: dict[str, Array] = load_file(file)
    return found


class Sensor:
    """Runs a denoiser's forwards at some noise levels once more for every site, with that site alone restricted.

    ``firsts``: those levels, with the number of the range that each begins. Rows of a batch are the ``prompts`` in
    turn, guidance branches outermost; or the branches come in one forward after the other.
    """

    def __init__(
        self,
        adapter: Adapter,
        denoiser: nn.Module,
        sites: Sequence[AttentionSite],
        target: AttentionKind,
        removals: Mapping[str, Removal],
        branches: tuple[float, ...],
        firsts: Mapping[float, int],
        prompts: int,
    ) -> None:
        self._adapter = adapter
        self._denoiser = denoiser
        self._sites = sites
        self._branches = branches
        self._firsts = firsts
        self._prompts = prompts
        self._restricted = share_copy(denoiser)
        gates = {site.fqn: frozenset({i}) for i, site in enumerate(sites)}
        # the step ranges stand for the sites: `hold` turns one of them on, whatever the noise level
        self._clock = restrict_(self._restricted, adapter, sites, target, removals, gates)
        self._seen: dict[tuple[int, str], list[Tensor]] = {}
        """per range and kind of forward: predictions [1 + S, P, ...] of each branch met so far, the usual one first"""

    def around(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The denoiser's forward, after the restricted ones where it is one to try."""
        k = self._firsts.get(self._adapter.noise_level(args, kwargs))
        layout = self._adapter.layout(self._denoiser, args, kwargs)
        if k is None or not self._sites or layout is None:
            return forward(*args, **kwargs)
        tried = []
        for i in range(len(self._sites)):
            again = copy.deepcopy((args, kwargs))  # a forward may alter what it is given, such as a cache
            with self._clock.hold(i):
                tried.append(_prediction(self._restricted(*again[0], **again[1])))
        out = forward(*args, **kwargs)
        predicted = torch.stack([_prediction(out), *tried])
        rows, met = predicted.shape[1], self._seen.setdefault((k, layout.kind), [])
        if rows % self._prompts:
            raise ModelError(f"a forward of {rows} rows cannot be shared by {self._prompts} prompts")
        met.extend(predicted.view(len(predicted), -1, self._prompts, *predicted.shape[2:]).unbind(1))
        return out

    def drifts(self, ranges: int) -> tuple[Array, Array]:
        """``output_drift`` [K, S, P] and ``branch_drift`` [K, S, B, P] of an `Impact`, summed over the forwards of a
        step.

        Raises `ModelError` when other branches ran than the adapter says.
        """
        together = np.zeros((ranges, len(self._sites), self._prompts))
        apart = np.zeros((ranges, len(self._sites), len(self._branches), self._prompts))
        for (k, _), predicted in self._seen.items():
            weights = self._branches if len(predicted) > 1 else (1.0,)  # a step may go without guidance
            times, left = divmod(len(predicted), len(weights))
            if left or (times > 1 and not self._adapter.several_kinds):
                raise ModelError(
                    f"{len(predicted)} guidance branches ran at a step, but adapter {self._adapter.name!r} names "
                    f"{len(weights)}; see its `branches`"
                )
            for first in range(0, len(predicted), len(weights)):
                parts = [w * part.double() for w, part in zip(weights, predicted[first:], strict=False)]
                usual = torch.stack([part[0] for part in parts]).sum(0)
                changes = torch.stack([part[1:] - part[0] for part in parts])
                together[k] += self._distances(usual, changes.sum(0))
                for b, change in enumerate(changes):
                    apart[k, :, b] += self._distances(usual, change)
        return together, apart

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
