"""Runs the model over prompts and gathers `Scores`; one file a prompt, so that a run can stop and go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from f3core.errors import ModelError, ScoresError
from f3core.evaluate import Progress
from f3core.probe import Probe
from f3core.scores import PromptScores, Scores, ScoresHeader
from f3core.sites import AttentionKind, AttentionSite
from f3core.workspace import written

if TYPE_CHECKING:
    from f3core.adapter import Adapter
    from f3core.costs import Costs


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
    batch_size: int = 1,
    identity: Mapping[str, Any] | None = None,
    costs: Costs | None = None,
    folder: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
    clip_made: Callable[[int, Tensor], None] | None = None,
) -> Scores:
    """Scores of every ``shard[1]``-th batch of prompts, from batch ``shard[0]`` on, from the model's own generation.

    Prompts always meet in the same batches and prompt i starts from noise of ``seed + i``, so scores do not depend on
    which shard runs them. With ``folder``, every finished prompt is written there and a batch already written is
    read, not run. ``clip_made`` hears the place of each prompt that is run, and its clip. Raises `ScoresError` when
    what lies there belongs to another calibration.
    """
    rank, world = shard
    if not 0 <= rank < world:
        raise ScoresError(f"shard {rank} of {world} does not exist; ranks count from 0")
    denoisers = adapter.denoisers(pipeline)
    sites = {name: adapter.sites(denoiser, name) for name, denoiser in denoisers.items()}
    every = range(len(prompts))
    batches = [every[i : i + batch_size] for i in every[::batch_size]][rank::world]
    total, parts = sum(map(len, batches)), list[Scores]()
    for batch in batches:
        kept = _kept(folder, batch, identity or {}, target)
        if kept is None:
            chosen, seeds = [prompts[i] for i in batch], [seed + i for i in batch]
            probes, clips = _run(adapter, pipeline, chosen, steps, seeds, call, target, stride)
            header = _header(adapter, probes, sites, len(batch), target, identity or {}, costs)
            kept = [Scores(header, {i: _gather(probes, header, sites, place)}) for place, i in enumerate(batch)]
            for i, one, clip in zip(batch, kept, clips, strict=True):
                if folder is not None:
                    with written(_file(folder, i)) as file:
                        one.save(file)
                if clip_made:
                    clip_made(i, clip)
        parts += kept
        if progress:
            progress(len(parts), total)
    if not parts:
        raise ScoresError(f"shard {rank} of {world} holds none of the {len(prompts)} prompts")
    return parts[0].merge(*parts[1:])


def _file(folder: Path, index: int) -> Path:
    return folder / f"prompt-{index:05d}.safetensors"


def _kept(
    folder: Path | None, batch: Sequence[int], identity: Mapping[str, Any], target: AttentionKind
) -> list[Scores] | None:
    """Scores of a batch that an earlier run finished, or None."""
    if folder is None or not all(_file(folder, i).exists() for i in batch):
        return None
    found = [Scores.load(_file(folder, i)) for i in batch]
    for i, one in zip(batch, found, strict=True):
        if dict(one.header.identity) != dict(identity) or one.header.drift_target is not target:
            raise ScoresError(f"{_file(folder, i)}: of another calibration; remove {folder}, or choose another output")
    return found


def _run(
    adapter: Adapter,
    pipeline: Any,
    prompts: Sequence[str],
    steps: int,
    seeds: Sequence[int],
    call: Mapping[str, Any],
    target: AttentionKind,
    stride: int,
) -> tuple[dict[str, Probe], Tensor]:
    probes = {
        name: Probe(
            adapter,
            denoiser,
            dict(enumerate(adapter.sites(denoiser, name))),
            stride=stride,
            target=target,
            prompts=len(prompts),
        )
        for name, denoiser in adapter.denoisers(pipeline).items()
    }
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(adapter.observable(pipeline))
        for probe in probes.values():
            stack.enter_context(probe.watching())
        clips = adapter.generate(pipeline, prompts, steps=steps, seeds=seeds, call=call)
    return probes, clips


def _header(
    adapter: Adapter,
    probes: Mapping[str, Probe],
    sites: Mapping[str, Sequence[AttentionSite]],
    prompts: int,
    target: AttentionKind,
    identity: Mapping[str, Any],
    costs: Costs | None,
) -> ScoresHeader:
    levels = sorted({level for probe in probes.values() for level in probe.levels}, reverse=True)
    if not any(probe.cells for probe in probes.values()):
        raise ModelError("generation never called a denoiser; does the adapter name the right components?")
    heads = {(name, i): cell.maps.shape[1] for name, probe in probes.items() for (i, _), cell in probe.cells.items()}
    every = [(name, i, site) for name, listed in sites.items() for i, site in enumerate(listed)]
    return ScoresHeader.of_sites(
        (site for _, _, site in every),
        adapter=adapter.name,
        heads=tuple(heads.get((name, i), 0) for name, i, _ in every),
        levels=tuple(levels),
        passes={name: _passes(probe, probe.rows, levels, prompts) for name, probe in probes.items()},
        unconditional={
            name: _passes(probe, probe.unconditional, levels, prompts)
            for name, probe in probes.items()
            if adapter.tells_branches
        },
        drift_target=target,
        identity=dict(identity),
        costs=costs.model_dump(mode="json") if costs else None,
    )


def _passes(
    probe: Probe, counted: Mapping[tuple[int, str], int], levels: Sequence[float], prompts: int
) -> dict[str, tuple[int, ...]]:
    """Rows of one clip at each level, by kind of forward, of those ``counted`` by step and kind."""
    found = {kind: [0] * len(levels) for _, kind in counted}
    for (step, kind), rows in counted.items():
        found[kind][levels.index(probe.levels[step])] += rows
    return {kind: tuple(n // prompts for n in rows) for kind, rows in found.items()}


def _gather(
    probes: Mapping[str, Probe], header: ScoresHeader, sites: Mapping[str, Sequence[AttentionSite]], place: int
) -> PromptScores:
    """Arrays of the prompt at ``place`` in its batch, from what the probes of the denoisers saw."""
    shape = (len(header.sites), len(header.levels))
    frames = max(cell.maps.shape[2] for probe in probes.values() for cell in probe.cells.values())
    mass, queries = np.zeros((*shape, max(header.heads), 3)), np.zeros(shape)
    drift, drift_queries = np.zeros(shape), np.zeros(shape)
    maps = np.zeros((shape[0], frames, frames + 1))
    for name, probe in probes.items():
        for (i, step), cell in probe.cells.items():
            row, column = header.sites.index(sites[name][i].fqn), header.levels.index(probe.levels[step])
            seen = cell.maps[place].cpu().numpy()
            n, f = seen.shape[0], seen.shape[1]
            own = np.trace(seen[:, :, :f], axis1=1, axis2=2)
            text, visual = seen[:, :, f].sum(1), seen[:, :, :f].sum((1, 2))
            mass[row, column, :n] += np.stack([text, own, visual - own], axis=1)
            queries[row, column] += cell.queries
            drift[row, column] += float(cell.drifts[place])
            drift_queries[row, column] += cell.drift_queries
            maps[row, :f, :f] += seen[:, :, :f].sum(0)
            maps[row, :f, -1] += seen[:, :, f].sum(0)
    return PromptScores(mass, queries, drift, drift_queries, maps)
