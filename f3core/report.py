"""`Report`: what was pruned, what that saved and what it cost; predicted numbers beside measured ones.

Data, what is worth a warning in it, and its files. Imports no torch, so a saved report is shown at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

from f3core.budget import Budget, Tried
from f3core.budget_text import plain
from f3core.environment import Machine, library_versions, machine, now
from f3core.errors import OutputError
from f3core.evaluate import PairedTiming
from f3core.footprint import Memory
from f3core.plan import PruningPlan, Verdict
from f3core.report_text import render, si, to_markdown
from f3core.sites import AttentionKind, GuidanceBranch, PruningAxis, Removal, Target, scope

__all__ = [
    "Counts",
    "Machine",
    "Macs",
    "MacsChange",
    "PlanSummary",
    "Quality",
    "Report",
    "library_versions",
    "load",
    "machine",
    "now",
    "render",
    "save",
    "to_markdown",
]

SHORTFALL = 0.85
"""A measured speed-up below this share of the predicted one is worth a warning."""
TIMING_NOISE = 0.05
"""A speed-up that was asked for and found may be measured lower by this share without a warning."""
FEW_CLIPS = 256
"""Fewer clips than this make a Fréchet distance depend much on their number."""
SMALL_CALL = 10**10
"""MACs of a denoiser call below which fixed costs per operation show."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Macs(_Frozen):
    """Multiply-adds in all and, within them, of attention maps by kind (left out where not known)."""

    total: int = Field(ge=0)
    kinds: dict[AttentionKind, int] = Field(default_factory=dict)


class MacsChange(_Frozen):
    """MACs before, as the plan predicts them after, and as counted on the pruned model."""

    before: Macs
    predicted: Macs
    counted: Macs


class Counts(_Frozen):
    """An integer before and after; None where it could not be had."""

    before: int | None
    after: int | None


class Quality(_Frozen):
    """Figures of one metric, by name."""

    before: dict[str, float]
    after: dict[str, float]
    higher_is_better: bool = True


class PlanSummary(_Frozen):
    """A plan as a report tells it. ``sites``: pruned sites by removal; ``gated``: whether the pruned model differs from
    forward to forward, by step or by branch of guidance, and so keeps weights that only some use; ``graphs``: how often
    each pruned denoiser compiles, compiled in place."""

    adapter: str
    method: str
    criterion: str
    axis: PruningAxis
    target: Target
    branch: GuidanceBranch = GuidanceBranch.BOTH
    ratio: float
    budget: Budget | None = None
    sites: dict[Removal, int]
    gated: bool
    graphs: dict[str, int]
    step_ranges: tuple[str, ...]
    units: tuple[Verdict, ...]
    unranked: bool = False

    @property
    def scope(self) -> str:
        """What goes, in words."""
        return scope(self.target, self.branch)

    @property
    def ranked(self) -> bool:
        """Whether the criterion chose among the units (`PruningPlan.ranked`)."""
        return not self.unranked and not any(removal.own for removal in self.sites)

    @property
    def pruned(self) -> int:
        """How many units go."""
        return sum(unit.pruned for unit in self.units)

    @property
    def goal(self) -> str:
        """What decided how many units go."""
        return f"ratio {self.ratio:g}" if self.budget is None else f"budget {self.budget}"

    @classmethod
    def of(cls, plan: PruningPlan) -> PlanSummary:
        """The summary of a plan."""
        return cls(
            adapter=plan.adapter,
            method=plan.method,
            criterion=plan.criterion,
            axis=plan.axis,
            target=plan.target,
            branch=plan.branch,
            ratio=plan.ratio,
            budget=plan.budget,
            sites=dict(Counter(plan.removals[site] for site in plan.gates())),
            gated=plan.gated(),
            graphs=plan.graphs(),
            step_ranges=tuple(map(str, plan.step_ranges)),
            units=plan.units,
            unranked=plan.unranked,
        )


class Report(_Frozen):
    """Everything a run found out.

    ``spec``: path of the spec; ``source``: where the model came from; ``command``: what reproduces the run;
    ``tried``: candidates that were measured on the way to a budget;
    ``forwards``: MACs of one forward of one row by component, in the step range that prunes most; ``generation``: MACs
    of one clip, all its steps; ``parameters``: of the denoisers, unique; ``disk``: bytes of their safetensors;
    ``clips``: how many quality and damage are taken over; ``damage``: mean squared error of clips made from the same
    noise; ``figure``, ``gif``, ``mp4``: paths relative to the report's folder.
    """

    version: int = Field(default=1, ge=1, le=1)
    date: str
    versions: dict[str, str]
    machine: Machine
    command: str
    spec: str
    source: str
    plan: PlanSummary
    tried: tuple[Tried, ...] = ()
    forwards: dict[str, MacsChange]
    generation: MacsChange
    parameters: Counts
    disk: Counts | None = None
    timing: PairedTiming | None = None
    memory_before: Memory | None = None
    memory_after: Memory | None = None
    quality: dict[str, Quality] = Field(default_factory=dict)
    clips: int = 0
    damage: float | None = None
    notes: tuple[str, ...] = ()
    figure: str | None = None
    gif: str | None = None
    mp4: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_warnings(cls, data: Any) -> Any:
        """Warnings are written for readers of the JSON, and computed anew from the numbers."""
        return {k: v for k, v in data.items() if k != "warnings"} if isinstance(data, Mapping) else data

    @property
    def predicted_speedup(self) -> float:
        """Denoiser speed-up if time went with MACs."""
        after = self.generation.predicted.total
        return self.generation.before.total / after if after else float("inf")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader might otherwise get wrong."""
        return (*_of_counts(self), *_of_plan(self.plan), *_of_timing(self), *_of_quality(self))


# --- warnings -------------------------------------------------------------------------------------------------------


def _of_counts(report: Report) -> list[str]:
    changes = {"one generation": report.generation, **{f"one {k} forward": v for k, v in report.forwards.items()}}
    return [
        f"{name[0].upper()}{name[1:]}: {si(c.predicted.total)}MAC predicted, {si(c.counted.total)}MAC counted "
        f"({c.counted.total - c.predicted.total:+,}). The plan does not describe this model exactly."
        for name, c in changes.items()
        if c.predicted.total != c.counted.total
    ]


def _of_plan(plan: PlanSummary) -> list[str]:
    found = []
    if not plan.pruned:
        found.append(f"Nothing was pruned: none of {len(plan.units)} units goes ({plan.goal}).")
    if plan.gated:
        found.append(
            f"On the {plan.axis} axis, {plan.scope} is pruned in some forwards only. Sites keep their weights, which "
            "the other forwards need: work is saved, parameters and disk space there are not."
        )
    if plan.sites.get(Removal.MASK):
        found.append(
            f"{plan.sites[Removal.MASK]} sites are pruned by a mask: an ablation that shows what {plan.target} does, "
            "and saves no work."
        )
    return found


def _of_timing(report: Report) -> list[str]:
    if report.timing is None:
        return []
    found, timing = [], report.timing
    budget = report.plan.budget
    asked, most = (budget.speedup, budget.milliseconds) if budget else (None, None)
    if asked is not None and timing.denoiser.speedup < (1 - TIMING_NOISE) * asked:
        found.append(
            f"The denoiser was measured as {asked:g}× as fast when the plan was chosen, and as "
            f"{timing.denoiser.speedup:.2f}× in the end: timings vary here. Give more evaluate.timing_pairs."
        )
    if most is not None and 1e3 * timing.denoiser.after > most / (1 - TIMING_NOISE):
        found.append(
            f"The denoiser was measured to take {plain(most)} ms at most when the plan was chosen, and "
            f"{plain(1e3 * timing.denoiser.after)} ms in the end: timings vary here. Give more evaluate.timing_pairs."
        )
    predicted, measured, whole = report.predicted_speedup, timing.denoiser.speedup, timing.end_to_end.speedup
    if measured < SHORTFALL * predicted:
        call = report.generation.before.total * timing.clips // max(timing.calls, 1)
        cause = (
            f"Likely cause: a denoiser call is only {si(call)}MAC, so small maps and fixed costs per operation "
            "outweigh the arithmetic. Measure at the frames and resolution you use."
            if call < SMALL_CALL
            else "Likely causes: time goes to memory traffic and other work that MACs do not count, or the smaller "
            "attention maps run less efficiently."
        )
        found.append(f"The denoiser is {measured:.2f}× as fast; its MACs predict {predicted:.2f}×. {cause}")
    if measured > 1.05 and whole - 1 < (measured - 1) / 2:
        share = 1 - timing.denoiser.before / timing.end_to_end.before
        found.append(
            f"The denoiser is {measured:.2f}× as fast, a whole generation only {whole:.2f}×: "
            f"{100 * share:.0f} % of its time goes to what was not pruned (text encoder, VAE)."
        )
    return found


def _of_quality(report: Report) -> list[str]:
    """Few clips under a distribution distance: told by the usual names of such figures."""
    names = [name for metric, q in report.quality.items() for name in (metric, *q.before)]
    if report.clips < FEW_CLIPS and any(
        re.search(r"fr[eé]chet|\bf[iv]d\b", n.replace("_", " ").lower()) for n in names
    ):
        return [
            f"The Fréchet distance is taken over {report.clips} clips. It is biased upwards below a few hundred: "
            "compare it only with distances over as many clips."
        ]
    return []


# --- files ----------------------------------------------------------------------------------------------------------


def save(report: Report, folder: Path) -> None:
    """Write report.json and report.md into an existing folder. Raises `OutputError` when that fails."""
    texts = {"report.json": report.model_dump_json(indent=2) + "\n", "report.md": to_markdown(report)}
    try:
        for name, text in texts.items():
            partial = folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)
    except OSError as error:
        raise OutputError(f"{folder}: the report cannot be written: {error.strerror}") from error


def load(folder: Path) -> Report:
    """The report of a run's output folder. Raises `OutputError`: no such folder, not a run, or a broken file."""
    file = folder / "report.json"
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder")
    if not file.is_file():
        raise OutputError(
            f"{folder}: not a finished run, it holds no report.json; give the folder `f3core apply` wrote"
        )
    try:
        return Report.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{file}: cannot be read: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'report'}: {e['msg']}" for e in error.errors()[:3])
        raise OutputError(f"{file}: broken, or written by another version of f3core: {problems}") from error
