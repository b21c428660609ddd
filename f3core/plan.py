"""From scores to a frozen `PruningPlan`: units, ranking, selection. Pure: no weights, no model, no torch.

Every plan is a set of (site, step range) cells; the axis only says which cells go together. Step ranges are ranges of
noise level (timestep value), so a plan holds at any number of sampling steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from f3core.block import Site
from f3core.budget import Budget
from f3core.errors import OutputError, PlanError
from f3core.sites import GuidanceBranch, PruningAxis, Removal, Structure, Target, scope

if TYPE_CHECKING:
    from f3core.costs import Passes


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StepRange(_Frozen):
    """Noise levels t with ``low < t <= high``; None is unbounded."""

    high: float | None = None
    low: float | None = None

    def __contains__(self, level: float) -> bool:
        return (self.high is None or level <= self.high) and (self.low is None or level > self.low)

    def __str__(self) -> str:
        if self.high is None and self.low is None:
            return "all steps"
        return f"t {'∞' if self.high is None else f'{self.high:g}'}–{'0' if self.low is None else f'{self.low:g}'}"


class Unit(_Frozen):
    """What is pruned or kept as one: these sites over these step ranges (indices into the plan's)."""

    name: str
    sites: tuple[str, ...]
    ranges: tuple[int, ...]


class Verdict(Unit):
    """A unit, what it scored, whether it goes, and the MACs of one generation that its removal saves."""

    score: float
    pruned: bool
    macs_saved: int


class PruningPlan(_Frozen):
    """Which units go, by which removal, and what that is predicted to save. A file one can review.

    ``ratio`` is the share of units asked for, or under a ``budget`` the share that went; where ``removals`` are a
    method's own, the share of keys or tokens that goes. ``seed``: of what is drawn at random. ``passes`` holds, per
    component and kind of forward, how many denoiser rows one clip needs in each step range (guidance counted);
    ``unconditional``: of these, those of guidance's unconditional branch, where they are told apart.
    """

    version: int = Field(default=1, ge=1, le=1)
    adapter: str
    method: str
    criterion: str
    target: Target
    branch: GuidanceBranch = GuidanceBranch.BOTH
    axis: PruningAxis
    ratio: float = Field(ge=0, le=1)
    budget: Budget | None = None
    step_ranges: tuple[StepRange, ...]
    removals: dict[str, Removal]
    units: tuple[Verdict, ...]
    unranked: bool = False
    """whether a rule, or a list, says what goes, so that neither scores nor a criterion do"""
    seed: int = 0
    passes: dict[str, dict[str, tuple[int, ...]]]
    unconditional: dict[str, dict[str, tuple[int, ...]]] = Field(default_factory=dict)
    macs_before: int
    macs_after: int

    @model_validator(mode="after")
    def _consistent(self) -> PruningPlan:
        for unit in self.units:
            if any(not 0 <= i < len(self.step_ranges) for i in unit.ranges):
                raise ValueError(f"unit {unit.name!r} names a step range that the plan does not have")
            missing = [site for site in unit.sites if site not in self.removals]
            if missing:
                raise ValueError(f"unit {unit.name!r} names {missing[0]!r}, for which the plan has no removal")
        if any(kind not in self.reach.get(name, {}) for name, kinds in self.passes.items() for kind in kinds):
            raise ValueError(f"it does not say which passes are of the {self.branch} branch that it prunes")
        return self

    @property
    def pruned(self) -> tuple[Verdict, ...]:
        """The units that go."""
        return tuple(unit for unit in self.units if unit.pruned)

    @property
    def reach(self) -> Passes:
        """Of ``passes``, the rows in which units that go are pruned: those of the plan's branch."""
        return self.passes if self.branch is GuidanceBranch.BOTH else self.unconditional

    @property
    def scope(self) -> str:
        """What goes, in words."""
        return scope(self.target, self.branch)

    @property
    def macs_share(self) -> float:
        """Share of the MACs of one generation that stays."""
        return self.macs_after / self.macs_before if self.macs_before else 1.0

    @property
    def ranked(self) -> bool:
        """Whether the criterion chose among the units; no method does that whose removals are its own."""
        return not self.unranked and not any(removal.own for removal in self.removals.values())

    @property
    def structural(self) -> bool:
        """Whether what it leaves is a smaller model, of fewer blocks, rather than a model that attends to less."""
        return self.target is Structure.BLOCK

    @property
    def goal(self) -> str:
        """What decided how many units go, in words."""
        return f"ratio {self.ratio:g}" if self.budget is None else f"budget {self.budget}"

    def choosing(self, chosen: Collection[int]) -> PruningPlan:
        """The same units with another choice among them: those at the indices ``chosen`` go."""
        units = tuple(unit.model_copy(update={"pruned": i in chosen}) for i, unit in enumerate(self.units))
        left = self.macs_before - sum(unit.macs_saved for unit in units if unit.pruned)
        share = len(chosen) / len(units) if units else 0.0
        return self.model_copy(update={"units": units, "ratio": share, "macs_after": left})

    def gates(self) -> dict[str, frozenset[int]]:
        """Pruned sites, each with the step ranges over which it is pruned."""
        found: dict[str, set[int]] = {}
        for unit in self.pruned:
            for site in unit.sites:
                found.setdefault(site, set()).update(unit.ranges)
        return {site: frozenset(ranges) for site, ranges in found.items()}

    def always(self, site: str) -> bool:
        """Whether a site is pruned in every forward, so that what it loses can leave the model."""
        return self._everywhere(self.gates().get(site, frozenset()))

    def gated(self) -> bool:
        """Whether the pruned model differs from forward to forward, by step or by branch of guidance."""
        return not all(map(self._everywhere, self.gates().values()))

    def graphs(self) -> dict[str, int]:
        """By component, the distinct states of the gates over a generation: how often a pruned denoiser that is
        compiled in place compiles for one batch size."""
        gates = self.gates()
        states: dict[str, set[frozenset[str]]] = {}
        for name in self.passes:
            mine = {site: ranges for site, ranges in gates.items() if site.startswith(f"{name}.")}
            for i in range(len(self.step_ranges)):
                rows, reached = (sum(n[i] for n in of.get(name, {}).values()) for of in (self.passes, self.reach))
                if reached:
                    states.setdefault(name, set()).add(frozenset(s for s, ranges in mine.items() if i in ranges))
                if rows > reached:
                    states.setdefault(name, set()).add(frozenset())
        return {name: len(found) for name, found in states.items()}

    def _everywhere(self, ranges: frozenset[int]) -> bool:
        return self.branch is GuidanceBranch.BOTH and len(ranges) == len(self.step_ranges)

    def range_of(self, level: float) -> int:
        """The step range that a noise level falls into."""
        for index, step_range in enumerate(self.step_ranges):
            if level in step_range:
                return index
        raise PlanError(f"noise level {level:g} is in none of the plan's step ranges")

    def save(self, path: Path) -> None:
        """Write as indented JSON. Raises `OutputError` when that fails; then nothing is left behind."""
        unfinished = path.with_name(path.name + ".partial")
        try:
            unfinished.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> PruningPlan:
        """Read a plan. Raises `PlanError` naming the file and what is wrong with it."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: not a valid plan: not UTF-8 text (byte {error.start})") from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'plan'}: {e['msg']}" for e in error.errors())
            raise PlanError(f"{path}: not a valid plan: {problems}") from error


def round_half_up(ratio: float, count: int) -> int:
    """``ratio * count`` to the nearest integer, halves up, free of binary rounding: 0.35 of 10 is 4."""
    return int((Decimal(str(ratio)) * count).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def split_steps(levels: Sequence[float], count: int) -> tuple[StepRange, ...]:
    """Cut the calibrated noise levels (from noisy to clean) into ``count`` runs of nearly equal length.

    Boundaries lie midway between neighbouring levels; the outer ends are open, so that any noise level falls into
    exactly one range. Raises `PlanError` when there are fewer levels than ranges.
    """
    if not 1 <= count <= len(levels):
        raise PlanError(f"{len(levels)} calibrated steps cannot be cut into {count} step ranges")
    ordered = sorted(levels, reverse=True)
    return ranges_from(ordered, [round(i * len(ordered) / count) for i in range(1, count)])


def ranges_from(levels: Sequence[float], starts: Sequence[int]) -> tuple[StepRange, ...]:
    """The ranges of noise levels, noisy to clean, that begin at the first and at ``starts``; see `split_steps`."""
    bounds = [None, *((levels[s - 1] + levels[s]) / 2 for s in starts), None]
    return tuple(StepRange(high=high, low=low) for high, low in itertools.pairwise(bounds))


def by_layer(sites: Iterable[Site]) -> dict[str, tuple[str, ...]]:
    """The sites (fqns) of each layer, which is those of one index in one component; early layers first.

    A layer has the name of its only site, or the path that its sites share; where they share none, its index.
    """
    found: dict[tuple[str, int], list[str]] = {}
    for site in sorted(sites, key=lambda s: (s.index, s.fqn)):
        found.setdefault((site.component, site.index), []).append(site.fqn)
    names = [_shared_path(fqns) for fqns in found.values()]
    return {
        name if names.count(name) == 1 and name != component else f"{component}[{index}]": tuple(fqns)
        for name, ((component, index), fqns) in zip(names, found.items(), strict=True)
    }


def _shared_path(fqns: Sequence[str]) -> str:
    levels = zip(*(fqn.split(".") for fqn in fqns), strict=False)
    return ".".join(names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, levels))


def _anywhere(site: str, step_range: int) -> bool:
    return True


def make_units(
    sites: Iterable[Site],
    axis: PruningAxis,
    ranges: int,
    occurs: Callable[[str, int], bool] = _anywhere,
) -> tuple[Unit, ...]:
    """The units of an axis over ``ranges`` step ranges, in canonical order: early ranges, then early layers, first.

    Sites of one layer go together on the layer axis, and each for itself on the cell axis. ``occurs`` tells by fqn and
    range whether a site has there what is to go. A range without it is no unit of its own, which would go first and
    save nothing: it belongs to the next range that has it, or behind the last one to that.
    """
    sites = list(sites)
    ordered = [s.fqn for s in sorted(sites, key=lambda s: (s.index, s.fqn))]
    every = tuple(range(ranges))
    if axis is PruningAxis.LAYER:
        return tuple(Unit(name=name, sites=fqns, ranges=every) for name, fqns in by_layer(sites).items())
    if axis is PruningAxis.TIMESTEP:
        found = _runs([any(occurs(fqn, i) for fqn in ordered) for i in every])
        return tuple(Unit(name=f"steps[{i}]", sites=tuple(ordered), ranges=run) for i, run in found.items())
    runs = {fqn: _runs([occurs(fqn, i) for i in every]) for fqn in ordered}
    cells = ((fqn, i) for i in every for fqn in ordered if i in runs[fqn])
    return tuple(Unit(name=f"{fqn}@steps[{i}]", sites=(fqn,), ranges=runs[fqn][i]) for fqn, i in cells)


def _runs(occurs: Sequence[bool]) -> dict[int, tuple[int, ...]]:
    """Of each index at which something occurs, itself and the ones before it at which it does not."""
    found: dict[int, tuple[int, ...]] = {}
    start = 0
    for index, here in enumerate(occurs):
        if here:
            found[index] = tuple(range(start, index + 1))
            start = index + 1
    if found:
        found[max(found)] += tuple(range(start, len(occurs)))
    return found


def rank(units: Sequence[Unit], scores: Sequence[float]) -> list[int]:
    """Indices of units, first to go first: lowest score, ties to the later unit. Raises `PlanError` on NaN."""
    if len(scores) != len(units):
        raise PlanError(f"{len(units)} units but {len(scores)} scores")
    for unit, score in zip(units, scores, strict=True):
        if not math.isfinite(score):
            raise PlanError(f"unit {unit.name!r} scored {score}; scores must be finite")
    return sorted(range(len(units)), key=lambda i: (scores[i], -i))


def select(units: Sequence[Unit], scores: Sequence[float], ratio: float) -> frozenset[int]:
    """Indices of the ``round_half_up(ratio * n)`` units that go. A higher ratio selects a superset."""
    if not 0 <= ratio <= 1:
        raise PlanError(f"ratio must lie in [0, 1], not {ratio}")
    return frozenset(rank(units, scores)[: round_half_up(ratio, len(units))])
