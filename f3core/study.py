"""`rank_study`: prune every unit alone, measure the true damage, and see which criterion predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.text import Text

from f3core import evaluate
from f3core.adapter import Model
from f3core.engine import command, inputs_of, prune, score, silent
from f3core.environment import Machine, library_versions, machine, now
from f3core.errors import SpecError, suggest
from f3core.job import Job
from f3core.measure import Listener
from f3core.plan import select
from f3core.planning import make_plan
from f3core.report_text import DASH, Lines, markdown_table, place, plural, terminal_table
from f3core.seeds import changed, each_seed, seeded
from f3core.spec import SpecFile
from f3core.stats import Figure, spearman
from f3core.trial import Trial
from f3core.workspace import workspace

CEILING = "leave_one_out"
"""The true damage itself as a criterion: what no criterion is expected to beat."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class CriterionResult(_Frozen):
    """One criterion under one seed: its Spearman correlation with the true damage (None where scores are all equal),
    and per ratio the damage of its plan and the figures of every metric."""

    criterion: str
    seed: int
    spearman: float | None
    damage: dict[str, float]
    quality: dict[str, dict[str, float]]


class RankStudy(_Frozen):
    """A whole study. ``leave_one_out``: per seed, the damage of pruning each unit alone, in the order of ``units``.
    ``unpruned``: the metrics' figures without pruning, per seed."""

    version: int = 1
    date: str
    machine: Machine
    versions: dict[str, str]
    command: str
    spec: str
    source: str
    axis: str
    target: str
    clips: int
    steps: int
    units: tuple[str, ...]
    seeds: tuple[int, ...]
    ratios: tuple[float, ...]
    leave_one_out: tuple[tuple[float, ...], ...]
    unpruned: tuple[dict[str, float], ...]
    results: tuple[CriterionResult, ...]

    def mean_spearman(self, criterion: str) -> float | None:
        """Mean over seeds, or None where it is not defined."""
        found = [r.spearman for r in self.results if r.criterion == criterion and r.spearman is not None]
        return float(np.mean(found)) if found else None

    @property
    def best(self) -> str:
        """The criterion (not the ceiling) with the highest mean Spearman."""
        names = {r.criterion for r in self.results if r.criterion != CEILING}
        found = {name: self.mean_spearman(name) for name in names}
        return max(sorted(names), key=lambda name: -2.0 if (mean := found[name]) is None else mean)


def rank_study(
    file: SpecFile,
    criteria: Sequence[str],
    *,
    ratios: Sequence[float] = (0.25, 0.5),
    seeds: Sequence[int] = (0, 1, 2),
    output: Path | None = None,
    resume: bool = False,
    listener: Listener = silent,
) -> RankStudy:
    """Run a study on the spec's model, prompts and metrics, and write rank_study.json and .md to the output folder.

    Per seed: calibrate (noise ``seed``), generate the unpruned clips, prune every unit alone and measure damage, the
    mean squared error to the unpruned clips of the same noise; then prune by each criterion at each ratio. Finished
    seeds are kept, so that an interrupted study goes on with ``resume``.
    """
    if file.spec.evaluate is None:
        raise file.error(("evaluate",), "a rank study measures quality; it needs an evaluate section")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise SpecError(f"--seeds {list(seeds)}: give one or more different seeds, none below 0")
    for ratio in ratios:
        if not 0 <= ratio <= 1:
            raise SpecError(f"--ratios {ratio}: ratios lie in [0, 1]")
    jobs = [seeded(file, seed, output) for seed in seeds]
    first = jobs[0]
    identity = {
        "study": [list(criteria), list(ratios), list(seeds)],
        "spec": first.file.spec.model_dump(mode="json", exclude={"output"}),
    }
    for name in criteria:
        if name not in first.registry.names("criterion"):
            raise SpecError(f"--criteria {name}: {suggest(name, first.registry.names('criterion'))}")
    with workspace(first.output, identity, resume=resume) as work:

        def one(job: Job, model: Model, seed: int) -> dict[str, Any]:
            return _one_seed(job, model, seed, criteria, ratios, work.scratch / f"calibration-{seed}", listener)

        parts = each_seed(dict(zip(seeds, jobs, strict=True)), work.scratch, listener, one)
        study = RankStudy(
            date=now(),
            machine=machine(),
            versions=library_versions(),
            command=_command(file, criteria, ratios, seeds),
            spec=file.name,
            source=file.spec.model.source,
            axis=parts[0]["axis"],
            target=str(first.file.spec.prune.target),
            clips=parts[0]["clips"],
            steps=first.file.spec.calibrate.steps,
            units=tuple(parts[0]["units"]),
            seeds=tuple(seeds),
            ratios=tuple(ratios),
            leave_one_out=tuple(tuple(part["leave_one_out"]) for part in parts),
            unpruned=tuple(part["unpruned"] for part in parts),
            results=tuple(CriterionResult.model_validate(r) for part in parts for r in part["results"]),
        )
        (work.folder / "rank_study.json").write_text(study.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (work.folder / "rank_study.md").write_text(to_markdown(study), encoding="utf-8")
        work.finish()
    return study


def _command(file: SpecFile, criteria: Sequence[str], ratios: Sequence[float], seeds: Sequence[int]) -> str:
    options = {"criteria": criteria, "ratios": [f"{ratio:g}" for ratio in ratios], "seeds": seeds}
    given = " ".join(f"--{name} {','.join(map(str, values))}" for name, values in options.items())
    return f"{command('rank-study', file)} {given}"


def _one_seed(
    job: Job,
    model: Model,
    seed: int,
    criteria: Sequence[str],
    ratios: Sequence[float],
    folder: Path,
    listener: Listener,
) -> dict[str, Any]:
    trial = Trial.of(job, model)

    def figures(made: Any) -> dict[str, float]:
        return {k: v for group in trial.quality(made).values() for k, v in group.items()}

    scores = score(job, model, inputs_of(job, model), folder=folder, listener=listener)
    plans = {name: make_plan(changed(job, f"prune.criterion={name}"), scores, ratio=0) for name in criteria}
    base = plans[criteria[0]]
    reference = trial.clips(model.pipeline)
    measured: dict[frozenset[int], tuple[float, dict[str, float]]] = {frozenset(): (0.0, figures(reference))}

    def outcome(chosen: frozenset[int]) -> tuple[float, dict[str, float]]:
        if chosen not in measured:
            made = trial.clips(prune(model, base.choosing(chosen)))
            measured[chosen] = (evaluate.damage(reference, made), figures(made))
        return measured[chosen]

    alone = []
    for i in range(len(base.units)):
        alone.append(outcome(frozenset({i}))[0])
        listener(f"Seed {seed}: units alone", i + 1, len(base.units))
    scored = {name: [unit.score for unit in plan.units] for name, plan in plans.items()} | {CEILING: alone}
    results = []
    for done, (name, values) in enumerate(scored.items()):
        picked = {f"{ratio:g}": outcome(select(base.units, values, ratio)) for ratio in ratios}
        results.append(
            {
                "criterion": name,
                "seed": seed,
                "spearman": spearman(values, alone),
                "damage": {ratio: found[0] for ratio, found in picked.items()},
                "quality": {ratio: found[1] for ratio, found in picked.items()},
            }
        )
        listener(f"Seed {seed}: criteria", done + 1, len(scored))
    return {
        "axis": str(base.axis),
        "clips": len(trial.prompts),
        "units": [unit.name for unit in base.units],
        "leave_one_out": alone,
        "unpruned": measured[frozenset()][1],
        "results": results,
    }


# --- to read --------------------------------------------------------------------------------------------------------


def _rows(study: RankStudy, ratio: float) -> Lines:
    """What a table of one ratio says: means over seeds, and of Spearman its standard deviation."""
    metrics, key = sorted(study.unpruned[0]), f"{ratio:g}"
    head = ["criterion", "Spearman", "damage", *metrics]
    rows = [["(unpruned)", "", "0", *(f"{np.mean([u[metric] for u in study.unpruned]):.3g}" for metric in metrics)]]
    for name in dict.fromkeys(r.criterion for r in study.results):
        mine = [r for r in study.results if r.criterion == name]
        found = [r.spearman for r in mine if r.spearman is not None]
        correlation = Figure.of(found).text(len(found) > 1, "+.2f") if found else DASH
        damage = f"{np.mean([r.damage[key] for r in mine]):.3g}"
        quality = (f"{np.mean([r.quality[key][metric] for r in mine]):.3g}" for metric in metrics)
        rows.append([name, correlation, damage, *quality])
    return head, rows


def render(study: RankStudy) -> RenderableType:
    """A table a ratio, for a terminal."""
    tables: list[RenderableType] = []
    for ratio in study.ratios:
        tables += [Text(f"{_title(study)}, ratio {ratio:g}"), terminal_table(*_rows(study, ratio))]
    return Group(*tables, Text(f"Best: {study.best}, by mean Spearman with the damage of pruning each unit alone."))


def _title(study: RankStudy) -> str:
    return f"{study.target}, axis {study.axis}: {plural(len(study.units), 'unit')}, {plural(len(study.seeds), 'seed')}"


def to_markdown(study: RankStudy) -> str:
    """The tables, how they were made, and the damage of every unit alone."""
    tables = [part for r in study.ratios for part in (f"## Ratio {r:g}", markdown_table(*_rows(study, r)))]
    alone = np.mean(np.asarray(study.leave_one_out), axis=0)
    units = [(name, f"{damage:.3g}") for name, damage in zip(study.units, alone, strict=True)]
    parts = [
        f"# Rank study: {study.target}, axis {study.axis}",
        f"Seeds {', '.join(map(str, study.seeds))}, {plural(study.clips, 'clip')} of {study.steps} steps each.",
        "Damage is the mean squared error to the unpruned model's clips from the same noise; Spearman is with the "
        "damage of pruning each unit alone, mean and standard deviation over seeds; the rest are means over seeds.",
        *tables,
        f"Best by Spearman: **{study.best}**.",
        "## Every unit alone",
        markdown_table(("unit pruned alone", "mean damage"), units),
        "## Reproduce",
        f"```\n{study.command}\n```",
        markdown_table(("", ""), place(study.source, study.spec, study.date, study.machine, study.versions)),
    ]
    return "\n\n".join(parts) + "\n"
