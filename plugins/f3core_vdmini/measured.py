"""The dearest criterion, and the surest: what `f3core importance` measured without each place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from f3core.errors import ScoresError
from f3core.importance_rows import DAMAGE, Importance, MeasuredPlace, load
from f3core.method import Criterion
from f3core.plan import StepRange, Unit
from f3core.scores import Scores
from f3core.sites import Target


class Measured(Criterion):
    """How much worse a figure got without a place, the mean over seeds (VDMini, arXiv 2411.18375, Figure 1).

    ``file``: the importance.json of a study of the same model, or the folder that holds it. ``figure``:
    ``metric.figure``, ``metric`` where it has one figure, or ``damage``. A unit takes the importance of the place that
    it is, or the sum over the places that it is made of. A block that was measured together with all that it needs
    takes that, as it never goes without. Where taking a place away makes the figure better, its score is below 0.
    """

    name = "measured"
    needs_scores = False

    def __init__(self, file: str | None = None, figure: str = DAMAGE) -> None:
        if not isinstance(file, str | None) or not isinstance(figure, str):
            raise TypeError("file is a path, figure the name of a figure")
        self.file = file
        self.figure = figure

    def score(
        self, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: Target, seed: int
    ) -> list[float]:
        if self.file is None:
            raise ScoresError(
                "criterion 'measured' ranks by what `f3core importance` measured; give its file: "
                "criterion: {measured: {file: importance.json, figure: damage}}"
            )
        study = load(Path(self.file))
        _check(study, self.file, units, ranges, scores, target)
        figure = study.figure(self.figure)
        worth = {place.name: study.importance(place, figure).mean for place in study.places}
        endless = [name for name, value in worth.items() if not math.isfinite(value)]
        if endless:
            raise ScoresError(
                f"{self.file}: {figure} without {endless[0]} is no number to rank by; choose another figure"
            )
        return [sum(worth[place.name] for place in made_of(unit, study.places)) for unit in units]


def _check(
    study: Importance, file: str, units: Sequence[Unit], ranges: Sequence[StepRange], scores: Scores, target: Target
) -> None:
    """Raises `ScoresError` for a study of another model or target, and for units that are pruned at some steps only."""
    if study.target is not target:
        raise ScoresError(f"{file}: it measured the importance of {study.target}, not of {target}; measure that")
    there, measured = set(scores.header.sites), {site for place in study.places for site in place.sites}
    unknown = sorted(measured - there)
    if study.adapter != scores.header.adapter or unknown:
        what = f"has {unknown[0]}, which this one lacks" if unknown else f"is of adapter {study.adapter!r}"
        raise ScoresError(f"{file}: it is of another model, {study.source}, which {what}; measure this one")
    for unit in units:
        if len(unit.ranges) < len(ranges):
            raise ScoresError(f"{file}: importance was measured at every step at once; set prune.axis to layer")
        missing = sorted(set(unit.sites) - measured)
        if missing:
            why = study.staying.get(missing[0], f"it is of {study.source}")
            raise ScoresError(f"{file}: {missing[0]} was not measured: {why}; measure this model as it is to be pruned")


def made_of(unit: Unit, places: Iterable[MeasuredPlace]) -> list[MeasuredPlace]:
    """The places that a unit consists of, the largest first; for what is left, those without which it cannot go."""
    found, left = list[MeasuredPlace](), set(unit.sites)
    largest = sorted(places, key=lambda place: -len(place.sites))
    for place in largest:
        if left.issuperset(place.sites):
            found.append(place)
            left -= set(place.sites)
    for site in unit.sites:
        if site in left:
            holding = [place for place in reversed(largest) if site in place.sites]
            place = next((place for place in holding if place.sites[0] == site), holding[0])
            found.append(place)
            left -= set(place.sites)
    return found
