"""What a study of importance measured: every place without which a model was run, and how much worse it got."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from f3core.block import Stage
from f3core.compare_rows import DAMAGE, figure_of
from f3core.environment import Provenance
from f3core.errors import ScoresError
from f3core.evaluate import PairedTiming
from f3core.pace import Pace
from f3core.sites import Removal, Target
from f3core.stats import Figure, spearman

FILE = "importance.json"


class MeasuredPlace(BaseModel):
    """A place that was pruned alone, at every step: one site, or a block and all that it needs to go (``sites``, its
    own first).

    ``index``: on the layer axis; ``stage``, ``level`` and ``number``: where a block lies (`Block`). By seed, in the
    study's order: ``figures`` of every metric, the ``damage`` (mean squared error to the unpruned clips of the same
    noise), and by criterion ``proxies``, what it scores the place. Saved: MACs of one clip (all calibrated steps),
    parameters of the denoisers, denoiser seconds of one clip (None where nothing was timed; raw runs in ``timing``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    sites: tuple[str, ...]
    removal: tuple[Removal, ...]
    index: int
    stage: Stage | None = None
    level: int | None = None
    number: int | None = None
    figures: tuple[dict[str, float], ...]
    damage: tuple[float, ...]
    macs_saved: int
    parameters_saved: int
    seconds_saved: float | None = None
    timing: PairedTiming | None = None
    proxies: dict[str, tuple[float, ...]]

    def proxy(self, criterion: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.proxies[criterion])


class Importance(Provenance):
    """A whole study. A figure is named ``metric.figure``, or ``metric`` where it bears the metric's name; ``damage``
    stands beside them.

    ``places`` in the order in which they run; ``staying``: why others cannot go, by name. ``unable``: criteria that
    cannot score the target, with their reason. Of the unpruned model: figures by seed (``unpruned``), ``macs`` of one
    clip, ``parameters`` of the denoisers, denoiser ``seconds`` of one clip. ``higher_is_better``: by metric.
    """

    adapter: str
    target: Target
    clips: int
    steps: int
    calibrated: int
    higher_is_better: dict[str, bool]
    unpruned: tuple[dict[str, float], ...]
    macs: int
    parameters: int
    seconds: float | None
    criteria: tuple[str, ...]
    unable: dict[str, str]
    places: tuple[MeasuredPlace, ...]
    staying: dict[str, str]

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of all figures, the damage last."""
        return (*self.unpruned[0], DAMAGE)

    @property
    def telling(self) -> tuple[str, ...]:
        """Of each metric the figure that moves most over the places, then the damage."""
        found: dict[str, tuple[float, str]] = {}
        for name in self.unpruned[0]:
            means = [m for place in self.places if math.isfinite(m := self.importance(place, name).mean)]
            moved = max(means) - min(means) if means else -math.inf
            metric = metric_of(name)
            if metric not in found or moved > found[metric][0]:
                found[metric] = (moved, name)
        return (*(name for _, name in found.values()), DAMAGE)

    def figure(self, word: str) -> str:
        """The full name of a figure that is asked for as ``metric.figure``, ``metric`` (where it has just one) or
        ``damage``. Raises `ScoresError` that says what is there."""
        if word in self.figures:
            return word
        mine = [name for name in self.figures if metric_of(name) == word]
        if len(mine) == 1:
            return mine[0]
        several = f"{word!r} has several figures" if mine else f"no figure {word!r} was measured"
        raise ScoresError(f"{several}; there are {', '.join(mine or self.figures)}")

    def importances(self, place: MeasuredPlace, figure: str) -> list[float]:
        """How much worse a figure gets than the unpruned model's once the place is gone, by seed: above 0 is worse."""
        if figure == DAMAGE:
            return list(place.damage)
        sign = -1.0 if self.higher_is_better[metric_of(figure)] else 1.0
        pairs = zip(place.figures, self.unpruned, strict=True)
        return [sign * (without[figure] - unpruned[figure]) for without, unpruned in pairs]

    def importance(self, place: MeasuredPlace, figure: str) -> Figure:
        """Mean over seeds, and its spread."""
        return figure_of(self.importances(place, figure))

    def agreement(self, criterion: str, figure: str) -> float | None:
        """Spearman's correlation of what a criterion scores the places and their importance, both means over seeds;
        None where one side is constant or no number."""
        measured = [self.importance(place, figure).mean for place in self.places]
        return _spearman([place.proxy(criterion) for place in self.places], measured)

    def between_seeds(self, figure: str) -> float | None:
        """Mean of Spearman's correlations between importances under two seeds: what noise leaves to agree with."""
        by_seed = list(zip(*(self.importances(place, figure) for place in self.places), strict=True))
        found = [_spearman(list(a), list(b)) for a, b in itertools.combinations(by_seed, 2)]
        known = [value for value in found if value is not None]
        return statistics.fmean(known) if known else None


def places_of_seeds(parts: Sequence[Mapping[str, Any]]) -> tuple[tuple[MeasuredPlace, ...], float | None]:
    """Places from what was kept of each seed (their order is the same in all), and the unpruned model's denoiser
    seconds of one clip, where the first seed timed. What a place saves of them is told by its speed-up (`Pace`)."""
    first = parts[0]["places"]
    timings = [PairedTiming.model_validate(one["timing"]) if one["timing"] else None for one in first]
    unpruned = Pace.unpruned([timing for timing in timings if timing])
    places = []
    for i, (known, timing) in enumerate(zip(first, timings, strict=True)):
        by_seed = [part["places"][i] for part in parts]
        left = unpruned.over(Pace.speedup(timing)) if unpruned and timing else None
        joined = {
            "figures": [one["figures"] for one in by_seed],
            "damage": [one["damage"] for one in by_seed],
            "proxies": {name: [one["proxies"][name] for one in by_seed] for name in known["proxies"]},
            "seconds_saved": unpruned.denoiser - left.denoiser if unpruned and left else None,
        }
        places.append(MeasuredPlace.model_validate({**known, **joined}))
    return tuple(places), unpruned.denoiser if unpruned else None


def metric_of(figure: str) -> str:
    """The metric of a figure by its full name."""
    return figure.partition(".")[0]


def _spearman(first: list[float], second: list[float]) -> float | None:
    return spearman(first, second) if all(map(math.isfinite, (*first, *second))) else None


def load(path: Path) -> Importance:
    """Read a study: its importance.json, or the folder that holds it. Raises `ScoresError` for anything else."""
    file = path / FILE if path.is_dir() else path
    try:
        return Importance.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ScoresError(
            f"{file}: cannot be read: {error.strerror}; give the {FILE} that `f3core importance` writes"
        ) from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise ScoresError(
            f"{file}: no study of importance ({where}: {error.errors()[0]['msg']}); give the {FILE} that "
            "`f3core importance` writes"
        ) from error
