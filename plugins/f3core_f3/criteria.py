"""Criteria: one number a unit, the lowest go first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from f3core.errors import ScoresError
from f3core.impact import Array
from f3core.method import Criterion
from f3core.plan import StepRange, Unit
from f3core.scores import Scores
from f3core.sites import AttentionKind


def _sum_over(units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, cells: Array) -> list[float]:
    """Sums of ``cells`` [S, T] over the sites and steps of each unit."""
    levels = scores.header.levels
    columns = [[i for i, level in enumerate(levels) if level in r] for r in ranges]
    sums = []
    for unit in units:
        rows = [scores.site_index(site) for site in unit.sites]
        steps = [column for r in unit.ranges for column in columns[r]]
        sums.append(float(cells[np.ix_(rows, steps)].sum()))
    return sums


class AggregateAttentionScore(Criterion):
    """AAS = Σ Attn(F_i, F_j), i ≠ j, over heads, query tokens and prompts (F3-Pruning, eq. 3); the mass of CA or SA
    where that is the target. Of both branches of guidance, whichever is pruned."""

    name = "aas"
    additive = True

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: AttentionKind, seed: int
    ) -> list[float]:
        return _sum_over(units, ranges, scores, scores.mass(target))


class MeanAttentionShare(Criterion):
    """AAS ÷ (queries × heads): the share of a query's attention, in [0, 1], that goes to the target kind."""

    name = "aas_mean"

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: AttentionKind, seed: int
    ) -> list[float]:
        mass = _sum_over(units, ranges, scores, scores.mass(target))
        rows = _sum_over(units, ranges, scores, scores.query_heads())
        return [m / r if r else 0.0 for m, r in zip(mass, rows, strict=True)]


class Drift(Criterion):
    """Mean over queries of ‖W_o (attn − attn without the target kind)‖², summed over the unit's sites and steps.

    In squared units of the site's output. Measured while calibrating, for the spec's target, over both branches of
    guidance, whichever is pruned.
    """

    name = "drift"
    additive = True

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: AttentionKind, seed: int
    ) -> list[float]:
        if scores.header.drift_target is not target:
            raise ScoresError(
                f"these scores hold the drift of removing {scores.header.drift_target}, not {target}; score again"
            )
        return _sum_over(units, ranges, scores, scores.mean_drift())


class PropagatedDrift(Criterion):
    """The damage that removing a unit is predicted to do to the clip: the mean squared error of its pixels.

    Damage ≈ drift of the output × amplification. The drift is how far the guided prediction of the denoiser moves when
    a site alone loses the target, so output projections, gates, guidance and all layers above are in it. The
    amplification of a step range, by all later steps and the decoder, is what pruning every site there did to clips,
    over their summed drift. Both are measured on a few prompts (`Impact`); docs/criteria.md says where this fails.

    Where one branch of guidance alone is pruned, the drift is that of the site losing the target in that branch; the
    amplification is the same (`Impact.within`).
    """

    name = "propagated_drift"
    needs_impact = True
    additive = True

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: AttentionKind, seed: int
    ) -> list[float]:
        impact = scores.impact
        if impact is None:
            raise ScoresError(
                f"criterion {self.name!r} ranks by the impact of removals, which these scores do not hold"
            )
        cells = np.zeros((len(scores.header.sites), len(scores.header.levels)))
        cells[[scores.site_index(site) for site in impact.sites]] = impact.by_step(scores.header.levels)
        return _sum_over(units, ranges, scores, cells)


class Random(Criterion):
    """A seeded shuffle that depends on a unit's name alone, not on the order of units."""

    name = "random"
    needs_scores = False

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: AttentionKind, seed: int
    ) -> list[float]:
        digests = [hashlib.sha256(f"{seed}:{unit.name}".encode()).digest() for unit in units]
        return [int.from_bytes(digest[:6], "big") / 2**48 for digest in digests]


class Late(Criterion):
    """Last units first, without a measurement: what the paper observes AAS to come to (F3-Pruning, figure 3)."""

    name = "late"
    needs_scores = False

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: AttentionKind, seed: int
    ) -> list[float]:
        return [float(-place) for place in range(len(units))]


class Reverse(AggregateAttentionScore):
    """Highest AAS first."""

    name = "reverse"
    additive = False

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: AttentionKind, seed: int
    ) -> list[float]:
        return [-value for value in super().score(units, ranges, scores, target, seed)]
