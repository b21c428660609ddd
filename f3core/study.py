"""`rank_study`: prune every unit alone, measure the true damage, and see which criterion predicts it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from f3core import evaluate
from f3core.adapter import Model
from f3core.candidates import front_of
from f3core.engine import command, prune, silent
from f3core.environment import library_versions, machine, now
from f3core.errors import ScoresError, SpecError, suggest
from f3core.job import Job
from f3core.measure import Listener
from f3core.plan import PruningPlan
from f3core.planning import able_criteria, make_plan, must_rank, plan_front
from f3core.scores import Scores
from f3core.scoring import inputs_of, scored
from f3core.seeds import changed, each_seed, seeded
from f3core.sites import PruningAxis, scope
from f3core.spec import SpecFile
from f3core.stats import spearman
from f3core.study_rows import CEILING, AxisRanking, RankStudy
from f3core.study_text import to_markdown
from f3core.trial import Trial
from f3core.workspace import workspace, written

SHARES = (0.25, 0.5, 0.75)


def rank_study(
    file: SpecFile,
    criteria: Sequence[str] = (),
    *,
    axes: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0, 1, 2),
    output: Path | None = None,
    resume: bool = False,
    listener: Listener = silent,
) -> RankStudy:
    """Run a study on the spec's model, prompts and metrics, and write rank_study.json, .md and .png to the output
    folder.

    Per seed: calibrate (noise ``seed``), generate the unpruned clips, and on each of ``axes`` (the spec's own when none
    is given) prune every unit alone and measure damage, the mean squared error to the unpruned clips of the same noise;
    then let each of ``criteria`` (all that can score the target as they are, when none is given) choose what goes, for
    ``shares`` of the MACs that pruning everything saves. Every finished measurement is kept, so that an interrupted
    study goes on with ``resume``. Raises `SpecError` for options that make no sense, before anything is loaded.
    """
    if file.spec.evaluate is None:
        raise file.error(("evaluate",), "a rank study measures quality; it needs an evaluate section")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise SpecError(f"--seeds {list(seeds)}: give one or more different seeds, none below 0")
    for share in shares:
        if not 0 <= share <= 1:
            raise SpecError(f"--shares {share}: shares lie in [0, 1]")
    jobs = [seeded(file, seed, output) for seed in seeds]
    first = jobs[0]
    must_rank(first)
    for name in criteria:
        if name not in first.registry.names("criterion"):
            raise SpecError(f"--criteria {name}: {suggest(name, first.registry.names('criterion'))}")
    for axis in axes:
        if axis not in set(map(str, PruningAxis)):
            raise SpecError(f"--axes {axis}: {suggest(axis, map(str, PruningAxis))}")
    identity = {
        "study": [list(criteria), list(axes), list(shares), list(seeds)],
        "spec": first.file.spec.model_dump(mode="json", exclude={"output"}),
    }
    with workspace(first.output, identity, resume=resume) as work:

        def one(job: Job, model: Model, seed: int) -> dict[str, Any]:
            asked = criteria or able_criteria(job)
            folder = work.scratch / f"of-seed-{seed}"
            return _one_seed(job, model, seed, asked, axes, shares, folder, listener, strict=bool(criteria))

        parts = each_seed(dict(zip(seeds, jobs, strict=True)), work.scratch, listener, one)
        study = RankStudy(
            date=now(),
            machine=machine(),
            versions=library_versions(),
            command=_command(file, criteria, axes, shares, seeds),
            spec=file.name,
            source=file.spec.model.source,
            target=scope(first.file.spec.prune.target, first.file.spec.prune.branch),
            clips=parts[0]["clips"],
            steps=first.file.spec.calibrate.steps,
            seeds=tuple(seeds),
            shares=tuple(shares),
            higher_is_better=parts[0]["higher_is_better"],
            unpruned=tuple(part["unpruned"] for part in parts),
            axes=tuple(
                AxisRanking.of(axis, seeds, [part["axes"][axis] for part in parts]) for axis in parts[0]["axes"]
            ),
        )
        (work.folder / "rank_study.json").write_text(study.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (work.folder / "rank_study.md").write_text(to_markdown(study), encoding="utf-8")
        from f3core.study_curves import draw

        draw(study, work.folder / "rank_study.png")
        work.finish()
    return study


def _command(
    file: SpecFile, criteria: Sequence[str], axes: Sequence[str], shares: Sequence[float], seeds: Sequence[int]
) -> str:
    options = {"criteria": criteria, "axes": axes, "shares": [f"{share:g}" for share in shares], "seeds": seeds}
    given = " ".join(f"--{name} {','.join(map(str, values))}" for name, values in options.items() if values)
    return f"{command('rank-study', file)} {given}"


@dataclass
class _Outcomes:
    """Damage and quality of pruned models of one seed, each measured once, and kept in ``file``."""

    trial: Trial
    model: Model
    levels: Sequence[float]
    file: Path
    reference: torch.Tensor = field(init=False)
    found: dict[str, tuple[float, dict[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reference = self.trial.unpruned()
        if self.file.exists():
            self.found = {key: (kept[0], kept[1]) for key, kept in json.loads(self.file.read_text()).items()}

    def figures(self, clips: torch.Tensor) -> dict[str, float]:
        """Figures of every metric, all in one; one that does not bear its metric's name is told by it."""
        made = self.trial.quality(clips)
        return {k if k == metric else f"{metric}.{k}": v for metric, group in made.items() for k, v in group.items()}

    def of(self, plan: PruningPlan) -> tuple[float, dict[str, float]]:
        """Of the model that a plan leaves; plans that prune the same sites at the same steps leave the same one."""
        gates = plan.gates()
        cells = {site: [lv for lv in self.levels if plan.range_of(lv) in ranges] for site, ranges in gates.items()}
        key = hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()
        if key not in self.found:
            made = self.trial.clips(prune(self.model, plan))
            self.found[key] = (evaluate.damage(self.reference, made), self.figures(made))
            with written(self.file) as file:
                file.write_text(json.dumps(self.found), encoding="utf-8")
        return self.found[key]


def _one_seed(
    job: Job,
    model: Model,
    seed: int,
    criteria: Sequence[str],
    axes: Sequence[str],
    shares: Sequence[float],
    folder: Path,
    listener: Listener,
    *,
    strict: bool,
) -> dict[str, Any]:
    trial = Trial.of(job, model)
    scores = scored(job, model, inputs_of(job, model), listener, criteria=criteria, folder=folder)
    outcomes = _Outcomes(trial, model, scores.header.levels, folder / "outcomes.json")
    found = {}
    for axis in axes or (None,):
        its_job = changed(job, f"prune.axis={axis}") if axis else job
        ranking = _rank(its_job, scores, criteria, shares, outcomes, partial(_heard, listener, seed), strict)
        found[ranking.pop("axis")] = ranking
    return {
        "clips": len(trial.prompts),
        "higher_is_better": {metric.name: metric.higher_is_better for metric in trial.metrics},
        "unpruned": outcomes.figures(outcomes.reference),
        "axes": found,
    }


def _heard(listener: Listener, seed: int, axis: str, what: str, done: int, total: int) -> None:
    listener(f"Seed {seed}, axis {axis}: {what}", done, total)


def _plans(job: Job, scores: Scores, criteria: Sequence[str], strict: bool) -> dict[str, PruningPlan]:
    """A plan by each criterion, the spec's own with its options. Raises `ScoresError` where one cannot score the
    target; unless ``strict`` it is left out, as long as another is left."""
    own, found, last = job.file.spec.prune.criterion.name, dict[str, PruningPlan](), len(criteria) - 1
    for i, name in enumerate(criteria):
        try:
            its_job = job if name == own else changed(job, f"prune.criterion={name}")
            found[name] = make_plan(its_job, scores, ratio=0)
        except ScoresError:
            if strict or (i == last and not found):
                raise
    return found


def _rank(
    job: Job,
    scores: Scores,
    criteria: Sequence[str],
    shares: Sequence[float],
    outcomes: _Outcomes,
    heard: Callable[[str, str, int, int], None],
    strict: bool,
) -> dict[str, Any]:
    """One axis under one seed, as JSON values: damage of every unit alone, and what criteria make of it."""
    plans = _plans(job, scores, criteria, strict)
    base = next(iter(plans.values()))
    axis, total = str(base.axis), len(base.units)
    if not any(unit.macs_saved for unit in base.units):
        message = "no unit saves any work, so that criteria choose nothing; give a target or removal that does"
        raise job.file.error(("prune", "removal"), message)
    alone = []
    for i in range(total):
        alone.append(outcomes.of(base.choosing({i}))[0])
        heard(axis, "units alone", i + 1, total)
    savings = [unit.macs_saved for unit in base.units]
    fronts = {name: plan_front(plan, job.registry) for name, plan in plans.items()}
    fronts[CEILING] = front_of(base.units, alone, savings, additive=True)
    values = {name: [unit.score for unit in plan.units] for name, plan in plans.items()} | {CEILING: alone}
    choices: list[Mapping[str, Any]] = []
    for done, (name, front) in enumerate(fronts.items(), 1):
        for share in shares:
            place = front.reaching(share * front.saved[-1] * (1 - 1e-12))  # whatever rounding does to the product
            assert place is not None, "a share is of what the front reaches"
            plan = base.choosing(front.units(place))
            damage, quality = outcomes.of(plan)
            saved = 1 - plan.macs_after / plan.macs_before
            choices.append({"criterion": name, "share": share, "saved": saved, "damage": damage, "quality": quality})
        heard(axis, "criteria", done, len(fronts))
    return {
        "axis": axis,
        "ranges": [str(r) for r in base.step_ranges],
        "alone": dict(zip((unit.name for unit in base.units), alone, strict=True)),
        "spearman": {name: spearman(scored, alone) for name, scored in values.items()},
        "choices": choices,
    }
