"""`rank_study`: prune every unit alone, measure the true damage, and see which criterion predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from f3core import evaluate
from f3core.adapter import Model
from f3core.engine import inputs_of, prune, score, silent
from f3core.environment import Machine, machine, now
from f3core.errors import SpecError, suggest
from f3core.job import Job
from f3core.measure import Listener
from f3core.plan import PruningPlan, select
from f3core.planning import make_plan
from f3core.seeds import changed, each_seed, seeded
from f3core.spec import SpecFile
from f3core.stats import spearman
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

    date: str
    machine: Machine
    spec: str
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
            spec=file.name,
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
    plans = {name: make_plan(changed(job, f"prune.criterion={name}"), scores) for name in criteria}
    base = plans[criteria[0]]
    reference = trial.clips(model.pipeline)
    measured: dict[frozenset[int], tuple[float, dict[str, float]]] = {frozenset(): (0.0, figures(reference))}

    def outcome(chosen: frozenset[int]) -> tuple[float, dict[str, float]]:
        if chosen not in measured:
            made = trial.clips(prune(model, _choosing(base, chosen)))
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


def _choosing(plan: PruningPlan, chosen: frozenset[int]) -> PruningPlan:
    """The same units with another choice among them."""
    units = tuple(unit.model_copy(update={"pruned": i in chosen}) for i, unit in enumerate(plan.units))
    saved = sum(unit.macs_saved for unit in units if unit.pruned)
    return plan.model_copy(update={"units": units, "macs_after": plan.macs_before - saved})


# --- to read --------------------------------------------------------------------------------------------------------


def _rows(study: RankStudy, ratio: float) -> tuple[list[str], list[list[str]]]:
    """What a table of one ratio says: means over seeds, and of Spearman its standard deviation."""
    metrics, key = sorted(study.unpruned[0]), f"{ratio:g}"
    head = ["criterion", "Spearman", "damage", *metrics]
    rows = [["(unpruned)", "", "0", *(f"{np.mean([u[metric] for u in study.unpruned]):.3g}" for metric in metrics)]]
    for name in dict.fromkeys(r.criterion for r in study.results):
        mine = [r for r in study.results if r.criterion == name]
        found = [r.spearman for r in mine if r.spearman is not None]
        correlation = f"{np.mean(found):+.2f} ± {np.std(found):.2f}" if found else "–"
        damage = f"{np.mean([r.damage[key] for r in mine]):.3g}"
        quality = (f"{np.mean([r.quality[key][metric] for r in mine]):.3g}" for metric in metrics)
        rows.append([name, correlation, damage, *quality])
    return head, rows


def render(study: RankStudy) -> RenderableType:
    """A table a ratio, for a terminal."""
    tables: list[RenderableType] = []
    for ratio in study.ratios:
        head, rows = _rows(study, ratio)
        table = Table(*head, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{_title(study)}, ratio {ratio:g}")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return Group(*tables, Text(f"Best: {study.best}, by mean Spearman with the damage of pruning each unit alone."))


def _title(study: RankStudy) -> str:
    return f"{study.target}, axis {study.axis}: {len(study.units)} units, {len(study.seeds)} seeds"


def to_markdown(study: RankStudy) -> str:
    """The tables, how they were made, and the damage of every unit alone."""
    tables = ""
    for ratio in study.ratios:
        head, rows = _rows(study, ratio)
        lines = "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
        tables += f"## Ratio {ratio:g}\n\n{lines}\n\n"
    alone = np.mean(np.asarray(study.leave_one_out), axis=0)
    units = "\n".join(f"| {name} | {damage:.3g} |" for name, damage in zip(study.units, alone, strict=True))
    return (
        f"# Rank study: {study.target}, axis {study.axis}\n\n"
        f"{study.date}, {study.machine.cpu}, {study.machine.cores} cores. Spec `{study.spec}`, seeds "
        f"{', '.join(map(str, study.seeds))}, {study.clips} clips of {study.steps} steps each.\n\n"
        "Damage is the mean squared error to the unpruned model's clips from the same noise; Spearman is with the "
        "damage of pruning each unit alone, mean and standard deviation over seeds; the rest are means over seeds.\n\n"
        f"{tables}Best by Spearman: **{study.best}**.\n\n"
        f"## Every unit alone\n\n| unit pruned alone | mean damage |\n| --- | --- |\n{units}\n"
    )
