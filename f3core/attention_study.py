"""`attention`: how a model's attention splits into kinds over layers or steps, and who attends to whom; no pruning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from f3core import attention_text, figures
from f3core.adapter import Model
from f3core.engine import SPEC, command, silent
from f3core.environment import Provenance, library_versions, machine, now
from f3core.impact import Array
from f3core.job import Job
from f3core.masses import Masses, blocks, masses, temporal_maps
from f3core.measure import Listener
from f3core.scores import Scores
from f3core.scoring import inputs_of, score
from f3core.seeds import each_seed, seeded
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


class AttentionStudy(Provenance):
    """What scoring alone says about a model.

    ``parts``: layers, or on the timestep axis steps (noise levels), means over seeds. ``frame_map`` [F][F]: the share
    that a query of frame i gives to keys of frame j, mean over the ``sites`` that hold TA, and seeds. Pairs that a
    site's model cannot see are zeros there and are left out of what follows; ``unseen`` is their part of all pairs.
    ``by_distance``: the share by |i − j|, None where no pair is seen. ``over_even``: the same as a multiple of what
    even attention to the frames that the query sees would give, which sites and frames that see different numbers of
    frames have in common. ``nearness``: Spearman of that multiple with |i − j| over pairs i ≠ j, by seed; ``nearer``:
    at how many of the sites it is negative, on the mean over seeds. ``statements`` say in words what the numbers show.
    """

    adapter: str
    axis: PruningAxis
    prompts: int
    steps: int
    query_stride: int
    kinds: tuple[AttentionKind, ...]
    parts: tuple[Part, ...]
    frame_map: tuple[tuple[float, ...], ...]
    by_distance: tuple[Figure | None, ...]
    over_even: tuple[Figure | None, ...]
    unseen: float
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
    if not isinstance(file.spec.prune.target, AttentionKind):
        raise file.error(("prune", "target"), f"a {file.spec.prune.target} has no attention of its own; choose a kind")
    seeds = (file.spec.sweep or SweepSpec()).seeds
    jobs = {seed: seeded(file, seed, output) for seed in seeds}
    identity = {"run": "attention", "spec": file.spec.model_dump(mode="json", exclude={"output"})}
    with workspace(jobs[seeds[0]].output, identity, resume=resume) as work:

        def one(job: Job, model: Model, seed: int) -> str:
            folder, name = work.scratch / f"calibration-{seed}", f"seed-{seed}.safetensors"
            scores = score(job, model, inputs_of(job, model), listener, folder=folder)
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
    layers = blocks(header)
    by_axis = {a: [masses(run, a, layers) for run in runs] for a in (PruningAxis.LAYER, PruningAxis.TIMESTEP)}
    maps = np.stack([temporal_maps(run) for run in runs])  # [seeds, sites, F, F]
    seen = np.asarray((maps > 0).any(axis=0))
    shares, ratios = np.where(seen, maps, np.nan), _over_even(maps, seen)
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
        by_distance=_by_distance(shares),
        over_even=_by_distance(ratios),
        unseen=float(1 - seen.mean()),
        sites=maps.shape[1],
        trends=tuple(_trends(by_axis)),
        nearness=tuple(_nearness(_known_mean(one)) for one in ratios),
        nearer=sum((rho := _nearness(one)) is not None and rho < 0 for one in ratios.mean(axis=0)),
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
    """Of every kind that is there, over the layers that hold it and over the steps, where there are two of them."""
    found = []
    for i, kind in enumerate(KINDS):
        for axis, runs in by_axis.items():
            holding = np.flatnonzero(runs[0].mass[i])
            if len(holding) > 1:
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
    return None if _steady(values) else spearman(list(range(len(values))), values)


def _steady(values: Array) -> bool:
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _over_even(maps: Array, seen: NDArray[np.bool_]) -> Array:
    """Maps [R, N, F, F] as multiples of even attention to the frames that each query sees.

    NaN where a pair is not ``seen`` [N, F, F], and where a query sees one frame and has no choice.
    """
    frames = seen.sum(axis=2, keepdims=True)
    total = maps.sum(axis=3, keepdims=True)
    even = np.divide(total, frames, out=np.zeros_like(total), where=frames > 0)
    found: Array = np.divide(maps, even, out=np.full_like(maps, np.nan), where=seen & (frames > 1) & (even > 0))
    return found


def _by_distance(maps: Array) -> tuple[Figure | None, ...]:
    """Means over sites and pairs at each distance |i − j| of maps [R, N, F, F], NaN left out; over R seeds."""
    places = np.arange(maps.shape[-1])
    apart = np.abs(places[:, None] - places)
    found = []
    for distance in places:
        values = [known.mean() for one in maps if len(known := (at := one[:, apart == distance])[~np.isnan(at)])]
        found.append(Figure.of(values) if values else None)
    return tuple(found)


def _known_mean(maps: Array) -> Array:
    """Mean over the first axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(maps)
    count = known.sum(axis=0)
    total = np.where(known, maps, 0).sum(axis=0)
    mean: Array = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean


def _nearness(ratios: Array) -> float | None:
    """Spearman of a map [F, F] with |i − j| over pairs i ≠ j that are known; None where all are alike."""
    i, j = np.nonzero(~np.eye(len(ratios), dtype=bool) & ~np.isnan(ratios))
    return None if len(i) < 2 or _steady(ratios[i, j]) else spearman(np.abs(i - j), ratios[i, j])
