"""Runs the model over prompts and gathers `Scores`; one file a prompt, so that a run can stop and go on."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from f3core.errors import ModelError, ScoresError
from f3core.probe import Probe, replaced_forward
from f3core.scores import PromptScores, Scores, ScoresHeader
from f3core.sites import AttentionKind, AttentionSite

if TYPE_CHECKING:
    from f3core.adapter import Adapter
    from f3core.plan import Costs

Progress = Callable[[int, int], None]
Inputs = dict[str, dict[str, Any]]
"""Keyword arguments of a forward of one row, by component"""


class _Seen(Exception):
    """Every denoiser has shown its inputs; the generation need not go on."""


def capture_inputs(adapter: Adapter, pipeline: Any, prompt: str, call: Mapping[str, Any]) -> Inputs:
    """The arguments with which generation calls each denoiser, from a generation that is cut short.

    Two steps are enough to meet every denoiser of a two-stage model. Raises `ModelError` for one that does not run.
    """
    denoisers = adapter.denoisers(pipeline)
    seen: Inputs = {}

    def note(name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name not in seen:
            batch = adapter.layout(denoisers[name], args, kwargs).batch
            seen[name] = {k: _one_row(v, batch) for k, v in _named(denoisers[name], args, kwargs).items()}
        if len(seen) == len(denoisers):
            raise _Seen
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        for name, denoiser in denoisers.items():
            stack.enter_context(replaced_forward(denoiser, functools.partial(note, name)))
        with suppress(_Seen):
            adapter.generate(pipeline, [prompt], steps=2, seeds=[0], call=call)
    for name in denoisers:
        if name not in seen:
            raise ModelError(f"generation never called {name}; does the adapter name the right components?")
    return seen


def _named(denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by keyword, so that they can be passed on without knowing their order."""
    positional = zip(inspect.signature(type(denoiser).forward).parameters, (denoiser, *args), strict=False)
    return {**dict(list(positional)[1:]), **kwargs}


def _one_row(value: Any, batch: int) -> Any:
    """The first of ``batch`` rows of every tensor that has so many."""
    if isinstance(value, torch.Tensor):
        return value[:1] if value.ndim and value.shape[0] == batch else value
    if isinstance(value, (list, tuple)):
        return type(value)(_one_row(v, batch) for v in value)
    return value


def calibrate(
    adapter: Adapter,
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int,
    seed: int,
    call: Mapping[str, Any],
    target: AttentionKind,
    stride: int = 1,
    identity: Mapping[str, Any] | None = None,
    costs: Costs | None = None,
    folder: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> Scores:
    """Scores of prompts ``shard[0]``, ``shard[0] + shard[1]``, ... from the model's own generation.

    Prompt i starts from noise of ``seed + i``, so its scores do not depend on which shard runs it. With ``folder``,
    every finished prompt is written there and one already written is read, not run. Raises `ScoresError` when what
    lies there belongs to another calibration.
    """
    rank, world = shard
    if not 0 <= rank < world:
        raise ScoresError(f"shard {rank} of {world} does not exist; ranks count from 0")
    denoisers = adapter.denoisers(pipeline)
    sites = {name: adapter.sites(denoiser, name) for name, denoiser in denoisers.items()}
    mine = list(range(rank, len(prompts), world))
    scores: Scores | None = None
    for done, index in enumerate(mine):
        file = folder / f"prompt-{index:05d}.safetensors" if folder else None
        if file is not None and file.exists():
            one = Scores.load(file)
            if dict(one.header.identity) != dict(identity or {}):
                raise ScoresError(f"{file}: of another calibration; remove {folder} or choose another output")
        else:
            probes = _run(adapter, pipeline, prompts[index], steps, seed + index, call, target, stride)
            one = _gather(adapter, probes, sites, index, target, identity or {}, costs)
            if file is not None:
                _write(one, file)
        scores = one if scores is None else scores.merge(one)
        if progress:
            progress(done + 1, len(mine))
    if scores is None:
        raise ScoresError(f"shard {rank} of {world} holds none of the {len(prompts)} prompts")
    return scores


def _write(scores: Scores, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    scores.save(unfinished)
    os.replace(unfinished, file)


def _run(
    adapter: Adapter,
    pipeline: Any,
    prompt: str,
    steps: int,
    seed: int,
    call: Mapping[str, Any],
    target: AttentionKind,
    stride: int,
) -> dict[str, Probe]:
    denoisers = adapter.denoisers(pipeline)
    probes = {
        name: Probe(adapter, denoiser, dict(enumerate(adapter.sites(denoiser, name))), stride=stride, target=target)
        for name, denoiser in denoisers.items()
    }
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(adapter.observable(pipeline))
        for probe in probes.values():
            stack.enter_context(probe.watching())
        adapter.generate(pipeline, [prompt], steps=steps, seeds=[seed], call=call)
    return probes


def _gather(
    adapter: Adapter,
    probes: Mapping[str, Probe],
    sites: Mapping[str, Sequence[AttentionSite]],
    index: int,
    target: AttentionKind,
    identity: Mapping[str, Any],
    costs: Costs | None,
) -> Scores:
    """Arrays of one prompt from what the probes of its denoisers saw."""
    levels = sorted({level for probe in probes.values() for level in probe.levels}, reverse=True)
    order = [(name, i) for name in sites for i in range(len(sites[name]))]
    cells = [cell for probe in probes.values() for cell in probe.cells.values()]
    if not cells:
        raise ModelError("generation never called a denoiser; does the adapter name the right components?")
    heads = max(cell.map.shape[0] for cell in cells)
    frames = max(cell.map.shape[1] for cell in cells)
    shape = (len(order), len(levels))
    mass, queries = np.zeros((*shape, heads, 3)), np.zeros(shape)
    drift, drift_queries = np.zeros(shape), np.zeros(shape)
    maps, head_counts = np.zeros((len(order), frames, frames)), [0] * len(order)
    for row, (name, i) in enumerate(order):
        for step, level in enumerate(probes[name].levels):
            cell = probes[name].cells.get((i, step))
            if cell is None:
                continue
            column = levels.index(level)
            seen = cell.map.cpu().numpy()
            n, f = seen.shape[0], seen.shape[1]
            own = np.trace(seen[:, :, :f], axis1=1, axis2=2)
            text, visual = seen[:, :, f].sum(1), seen[:, :, :f].sum((1, 2))
            mass[row, column, :n] += np.stack([text, own, visual - own], axis=1)
            queries[row, column] += cell.queries
            drift[row, column] += float(cell.drift)
            drift_queries[row, column] += cell.drift_queries
            maps[row, :f, :f] += seen[:, :, :f].sum(0)
            head_counts[row] = n
    passes = {
        name: tuple(sum(n for step, n in probe.rows.items() if probe.levels[step] == level) for level in levels)
        for name, probe in probes.items()
    }
    header = ScoresHeader(
        adapter=adapter.name,
        sites=tuple(sites[name][i].fqn for name, i in order),
        heads=tuple(head_counts),
        levels=tuple(levels),
        passes=passes,
        drift_target=target,
        removals={
            site.fqn: {str(kind): tuple(map(str, ways)) for kind, ways in site.removals.items()}
            for component in sites.values()
            for site in component
        },
        identity=dict(identity),
        costs=costs.model_dump(mode="json") if costs else None,
    )
    return Scores(header, {index: PromptScores(mass, queries, drift, drift_queries, maps)})
