"""Methods that reduce tokens at every site by the same share: nothing is ranked, so nothing is calibrated."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from f3core.candidates import Candidates
from f3core.errors import PlanError
from f3core.method import Method, PlanRequest
from f3core.plan import PruningPlan, split_steps
from f3core.reduction import Merger, Reducer
from f3core.sites import AttentionKind, GuidanceBranch, PruningAxis, Removal
from f3core_tokens.evit import EViTReducer
from f3core_tokens.token_pruning import TokenPruningReducer
from f3core_tokens.tome import ToMeReducer
from f3core_tokens.tomesd import ToMeSDMerger, ToMeSDReducer
from f3core_tokens.tps import TPSReducer


class _TokenReduction(Method):
    needs_scores = False
    removals: ClassVar[Mapping[AttentionKind, Removal]] = {AttentionKind.TEMPORAL: Removal.REDUCE}

    def plan(self, request: PlanRequest) -> PruningPlan:
        """Every layer, at every step; ``ratio`` is the share of the target's keys (of a frame's tokens, where those are
        merged) that goes at each. Units score 0. Raises `PlanError` for what such a plan cannot do."""
        self._check(request)
        found = Candidates.of(request, split_steps(request.scores.header.levels, 1))
        chosen = range(len(found.units)) if request.ratio else ()
        return found.plan(self.name, [0.0] * len(found.units), chosen)

    def _check(self, request: PlanRequest) -> None:
        """Raise `PlanError` for what this method does not do."""
        if request.target not in self.removals:
            able = " or ".join(map(str, self.removals))
            raise PlanError(f"method {self.name!r} reduces {able}, not {request.target}; set prune.target to {able}")
        if request.budget is not None or request.ratio is None:
            raise PlanError(
                f"method {self.name!r} takes the same share of tokens everywhere and chooses among no units, so it "
                "cannot meet a budget; give prune.ratio, the share that goes, instead of prune.budget"
            )
        if request.axis is not PruningAxis.LAYER:
            raise PlanError(f"method {self.name!r} reduces tokens at every step; set prune.axis to layer")
        if request.branch is not GuidanceBranch.BOTH:
            raise PlanError(
                f"method {self.name!r} reduces tokens in both branches of guidance; set prune.branch to both"
            )

    @abstractmethod
    def reducer(self, seed: int) -> Reducer:
        """What this method does to keys."""


class ToMe(_TokenReduction):
    name = "tome"

    def reducer(self, seed: int) -> Reducer:
        """Nothing is drawn."""
        return ToMeReducer()


class ToMeSD(_TokenReduction):
    name = "tomesd"
    removals: ClassVar[Mapping[AttentionKind, Removal]] = {
        AttentionKind.TEMPORAL: Removal.REDUCE,
        AttentionKind.SELF: Removal.MERGE,
    }

    def reducer(self, seed: int) -> Reducer:
        """Destinations are drawn by ``seed``."""
        return ToMeSDReducer(seed)

    def merger(self, seed: int) -> Merger:
        """Likewise."""
        return ToMeSDMerger(seed)


class TokenPruning(_TokenReduction):
    name = "token_pruning"

    def reducer(self, seed: int) -> Reducer:
        """Nothing is drawn."""
        return TokenPruningReducer()


class EViT(_TokenReduction):
    name = "evit"

    def reducer(self, seed: int) -> Reducer:
        """Nothing is drawn."""
        return EViTReducer()


class TPS(_TokenReduction):
    name = "tps"

    def reducer(self, seed: int) -> Reducer:
        """Nothing is drawn."""
        return TPSReducer()
