"""`Method` (how a plan comes about) and what else plugins may add alone: `Criterion`, `PromptSet`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from f3core.block import Site
from f3core.errors import PlanError
from f3core.sites import AttentionKind, GuidanceBranch, PruningAxis, Removal, Target

if TYPE_CHECKING:
    from f3core.budget import Budget
    from f3core.costs import Costs
    from f3core.plan import PruningPlan, StepRange, Unit
    from f3core.reduction import Merger, Reducer
    from f3core.scores import Scores
    from f3core.selection import Front


@dataclass(frozen=True)
class PlanRequest:
    """All that a method may look at. No weights, no model: a plan is made from numbers alone."""

    adapter: str
    sites: tuple[Site, ...]
    scores: Scores
    costs: Costs
    target: Target
    axis: PruningAxis
    removals: Mapping[str, Removal]
    """per site fqn of the sites that hold the target, what is to be done there"""
    criterion: Criterion
    ratio: float | None
    """share of the units that goes; None where a budget decides"""
    budget: Budget | None = None
    branch: GuidanceBranch = GuidanceBranch.BOTH
    """of which branch of guidance the forwards are pruned"""
    step_ranges: int | None = None
    """how many step ranges the calibrated steps are cut into; the axis decides when None"""
    seed: int = 0


class Method(ABC):
    """An algorithm that turns scores into a plan.

    The units of its plans are independent: where a budget has to be measured, other choices among them are tried.
    """

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = True
    """Whether its plans go by what the spec's criterion scores; otherwise nothing is scored for it."""
    removals: ClassVar[Mapping[AttentionKind, Removal]] = {}
    """What its plans do, per kind, where that is a removal of the method's own (`Removal.own`) instead of one that
    sites list. Such a method ranks nothing (``needs_scores`` is False), and it does the same in every forward: a spec
    may ask for a ratio and the layer axis alone."""

    @abstractmethod
    def plan(self, request: PlanRequest) -> PruningPlan:
        """A frozen plan; pure, so the same request gives the same plan. Raises `PlanError`."""

    @classmethod
    def front(
        cls, units: Sequence[Unit], scores: Sequence[float], savings: Sequence[int], criterion: type[Criterion]
    ) -> Front:
        """The selections among which a budget chooses, where units save ``savings`` each, in MACs or whatever else the
        budget is of."""
        from f3core.candidates import front_of

        return front_of(units, scores, savings, additive=criterion.additive)

    def reducer(self, seed: int) -> Reducer:
        """What carries out `Removal.REDUCE`; ``seed`` decides what is drawn at random."""
        raise PlanError(f"method {self.name!r} has no way to reduce keys")

    def merger(self, seed: int) -> Merger:
        """What carries out `Removal.MERGE`; likewise."""
        raise PlanError(f"method {self.name!r} has no way to merge tokens")


class Criterion(ABC):
    """Scores units of pruning; the lowest are pruned first.

    ``needs_scores``: False for one that ranks by names and places alone, so that a plan needs no calibration.
    ``needs_impact``: ranks by what removals do to the output (`Scores.impact`), which is measured where it is needed.
    ``additive``: scores are never negative, and those of several units add up to what pruning them together does, so
    that score per MAC saved makes sense; otherwise they only rank.
    """

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = True
    needs_impact: ClassVar[bool] = False
    additive: ClassVar[bool] = False

    @abstractmethod
    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: Target, seed: int
    ) -> list[float]:
        """One finite number a unit, in the order of ``units``. Raises `ScoresError` where a measurement is missing.

        ``scores`` are those of the branch of guidance that is pruned, as far as they are told by branch
        (`Scores.within`).
        """


class PromptSet(ABC):
    """A named list of prompts."""

    name: ClassVar[str]

    @abstractmethod
    def prompts(self, count: int, seed: int) -> list[str]:
        """``count`` prompts chosen by ``seed``; repeats only where the set is smaller than ``count``."""
