"""`attention`: how a model's attention splits into kinds over layers or steps, and who attends to whom; no pruning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from f3core import attention_text, figures
from f3core.adapter import Model
from f3core.engine import SPEC, inputs_of, score, silent
from f3core.environment import Machine, library_versions, machine, now
from f3core.job import Job
from f3core.masses import Masses, blocks, by_distance, masses, temporal_maps
from f3core.measure import Listener
from f3core.scores import Array, Scores
from f3core.seeds import command, each_seed, seeded
from f3core.sites import KINDS, AttentionKind, PruningAxis
from f3core.spec import SpecFile, SweepSpec
from f3core.stats import Figure, spearman
from f3core.workspace import workspace


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Frozen):
    """A layer or a step. ``mass``: its Aggregate Attention Score by kind, summed over prompts, queries and heads;
    ``share``: the part of one query's attention, at the sites that pay any to that kind, which are left out else."""

    name: str
    mass: dict[AttentionKind, Figure]
    share: dict[AttentionKind, Figure]


class Trend(_Frozen):
    """Spearman's correlation of a kind's mass, and of its share, with the place of the layer or step, by seed; None
    where it does not change. ``ends``: the share in the first and in the last of them."""

    kind: AttentionKind
    axis: PruningAxis
    places: int
    mass: tuple[float | None, ...]
    share: tuple[float | None, ...]
    ends: tuple[Figure, Figure]


class AttentionStudy(_Frozen):
    """What scoring alone says about a model.

    ``parts``: layers, or on the timestep axis steps (noise levels), means over seeds. ``frame_map`` [F][F]: the share
    that a query of frame i gives to keys of frame j, mean over the ``sites`` that hold TA, and seeds. ``by_distance``:
    the same by |i − j|. ``nearness``: Spearman of that share with |i − j| over all pairs i ≠ j, by seed; ``nearer``:
    at how many of the sites it is negative, on the mean over seeds. ``statements`` say in words what the numbers show.
    """

    version: int = 1
    date: str
    machine: Machine
    versions: dict[str, str]
    command: str
    spec: str
    source: str
    adapter: str
    axis: PruningAxis
    seeds: tuple[int, ...]
    prompts: int
    steps: int
    query_stride: int
    kinds: tuple[AttentionKind, ...]
    parts: tuple[Part, ...]
    frame_map: tuple[tuple[float, ...], ...]
    by_distance: tuple[Figure, ...]
    sites: int
    trends: tuple[Trend, ...]
    nearness: tuple[float | None, ...]
    nearer: int
    statements: tuple[str, ...] = ()


def attention(
    file: SpecFile, *, output: Path | None = None, resume: bool = False, listener: Listener = silent
) -> AttentionStudy:
    """Score the spec's model under every seed of its sweep section (0, 1, 2 without one), and write attention.json,
    attention.md, attention.png and the scores to the output folder.

    Finished prompts and seeds are kept, so that an interrupted study goes on with ``resume``. Raises `SpecError` for
    a wrong spec, `OutputError` when the output is in the way.
    """
    seeds = (file.spec.sweep or SweepSpec()).seeds
    jobs = {seed: seeded(file, seed, output) for seed in seeds}
    identity = {"run": "attention", "spec": file.spec.model_dump(mode="json", exclude={"output"})}
    with workspace(jobs[seeds[0]].output, identity, resume=resume) as work:

        def one(job: Job, model: Model, seed: int) -> str:
            folder, name = work.scratch / f"calibration-{seed}", f"seed-{seed}.safetensors"
            scores = score(job, model, inputs_of(job, model), folder=folder, listener=listener)
            scores.save(work.scratch / name)
            return name

        names = each_seed(jobs, work.scratch, listener, one)
        runs = [Scores.load(work.scratch / name) for name in names]
        (work.folder / "scores").mkdir()
        for name in names:
            shutil.copy(work.scratch / name, work.folder / "scores" / name)
        found, layers = _study(file, jobs[seeds[0]], runs, seeds)
        figures.attention_over(runs, layers, found.axis, attention_text.title(found), work.folder / "attention.png")
        (work.folder / SPEC).write_text(file.text, encoding="utf-8")
        (work.folder / "attention.md").write_text(attention_text.to_markdown(found), encoding="utf-8")
        (work.folder / "attention.json").write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        work.finish()
    return found


def _study(
    file: SpecFile, job: Job, runs: Sequence[Scores], seeds: Sequence[int]
) -> tuple[AttentionStudy, Mapping[str, Sequence[int]]]:
    """All numbers, and the sites of every layer."""
    header, spec = runs[0].header, file.spec
    axis = spec.prune.axis or job.registry.entry("adapter", header.adapter).default_axis
    shown = PruningAxis.TIMESTEP if axis is PruningAxis.TIMESTEP else PruningAxis.LAYER  # cells are of layers
    layers = blocks(header.sites, [s for s in header.sites if str(spec.prune.target) in header.removals.get(s, {})])
    by_axis = {a: [masses(run, a, layers) for run in runs] for a in (PruningAxis.LAYER, PruningAxis.TIMESTEP)}
    maps = np.stack([temporal_maps(run) for run in runs])  # [seeds, sites, F, F]
    distances = np.stack([by_distance(seed) for seed in maps.mean(axis=1)])
    near = [_nearness(one) for one in maps.mean(axis=0)]
    found = AttentionStudy(
        date=now(),
        machine=machine(),
        versions=library_versions(),
        command=command("attention", file),
        spec=file.name,
        source=spec.model.source,
        adapter=header.adapter,
        axis=shown,
        seeds=tuple(seeds),
        prompts=len(runs[0].prompts),
        steps=spec.calibrate.steps,
        query_stride=spec.calibrate.query_stride,
        kinds=tuple(kind for i, kind in enumerate(KINDS) if by_axis[shown][0].mass[i].any()),
        parts=tuple(_parts(by_axis[shown], list(layers) if shown is PruningAxis.LAYER else None)),
        frame_map=tuple(tuple(row) for row in maps.mean(axis=(0, 1)).tolist()),
        by_distance=tuple(Figure.of(values) for values in distances.T),
        sites=maps.shape[1],
        trends=tuple(_trends(by_axis)),
        nearness=tuple(_nearness(one) for one in maps.mean(axis=1)),
        nearer=sum(rho is not None and rho < 0 for rho in near),
    )
    return found.model_copy(update={"statements": tuple(attention_text.statements(found))}), layers


def _parts(runs: Sequence[Masses], names: Sequence[str] | None) -> list[Part]:
    parts = []
    for place, label in enumerate(runs[0].labels):
        found: dict[str, dict[AttentionKind, Figure]] = {"mass": {}, "share": {}}
        for i, kind in enumerate(KINDS):
            if runs[0].mass[i].any():
                found["mass"][kind] = Figure.of(run.mass[i, place] for run in runs)
            shares = [run.share[i, place] for run in runs]
            if not np.isnan(shares).any():
                found["share"][kind] = Figure.of(shares)
        parts.append(Part(name=names[place] if names else label, mass=found["mass"], share=found["share"]))
    return parts


def _trends(by_axis: Mapping[PruningAxis, Sequence[Masses]]) -> list[Trend]:
    """Of every kind that is there, over the layers that hold it and over the steps."""
    found = []
    for i, kind in enumerate(KINDS):
        for axis, runs in by_axis.items():
            holding = np.flatnonzero(runs[0].mass[i])
            if len(holding):
                found.append(
                    Trend(
                        kind=kind,
                        axis=axis,
                        places=len(holding),
                        mass=tuple(_trend(run.mass[i, holding]) for run in runs),
                        share=tuple(_trend(run.share[i, holding]) for run in runs),
                        ends=(_ends(runs, i, holding[0]), _ends(runs, i, holding[-1])),
                    )
                )
    return found


def _ends(runs: Sequence[Masses], kind: int, place: int) -> Figure:
    return Figure.of(run.share[kind, place] for run in runs)


def _trend(values: Array) -> float | None:
    """Spearman with the place; None where the values differ by no more than rounding."""
    steady: Any = np.ptp(values) <= 1e-9 * np.abs(values).max()
    return None if steady else spearman(list(range(len(values))), values)


def _nearness(frame_map: Array) -> float | None:
    """Spearman of the share between two frames i ≠ j with |i − j|; None where all are alike."""
    i, j = np.nonzero(~np.eye(len(frame_map), dtype=bool))
    return spearman(np.abs(i - j), frame_map[i, j]) if len(i) else None
