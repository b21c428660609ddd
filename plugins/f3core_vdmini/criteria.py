"""Cheap guesses at which blocks matter, both measured on a few prompts without taking anything out of the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from f3core.errors import ScoresError
from f3core.impact import Array, Impact
from f3core.method import Criterion
from f3core.plan import StepRange, Unit
from f3core.scores import Scores
from f3core.sites import Target


class Change(Criterion):
    """1 − cosine of what a block takes and what it gives, the mean over tokens, steps and prompts; of several blocks
    that go together, the sum. A block whose output is of another width than its input has none and counts as 2, the
    most there is.
    """

    name = "change"
    needs_impact = True

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: Target, seed: int
    ) -> list[float]:
        impact = _impact(scores, self.name)
        if not impact.change.size:
            raise ScoresError(
                f"criterion {self.name!r} compares what blocks take and give, but {target} is no block; set "
                "prune.target to block, or choose another criterion"
            )
        measured = np.isfinite(impact.change)
        found = np.where(measured.any(1), np.where(measured, impact.change, 0).sum(1) / measured.sum(1).clip(1), 2.0)
        return _summed(units, impact, found)


class OutputDrift(Criterion):
    """How far the denoiser's guided prediction moves (the mean square) when a block, or an attention site, alone is
    pruned in one forward, at the first step of each range that was tried; mean over prompts, sum over ranges. The final
    output, so that all layers above are in it."""

    name = "output_drift"
    needs_impact = True
    additive = True

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: Target, seed: int
    ) -> list[float]:
        impact = _impact(scores, self.name)
        return _summed(units, impact, impact.output_drift.mean(axis=2).sum(axis=0))


def _impact(scores: Scores, criterion: str) -> Impact:
    if scores.impact is None:
        raise ScoresError(f"criterion {criterion!r} ranks by the impact of removals, which these scores do not hold")
    return scores.impact


def _summed(units: Sequence[Unit], impact: Impact, by_site: Array) -> list[float]:
    """The sum over the sites of each unit."""
    places = {site: i for i, site in enumerate(impact.sites)}
    return [float(sum(by_site[places[site]] for site in unit.sites)) for unit in units]
