"""Which units should go for what they save: `front`, the best selections between nothing and everything. Pure."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from f3core.errors import PlanError

MOST_PAIRS = 20_000
"""Pareto-optimal pairs (saved, damage) that exact selection may hold at a time; beyond, selection is greedy."""


@dataclass(frozen=True)
class Front:
    """Selections of units, each saving more than the one before; the first is nothing.

    ``saved``: MACs that each saves, rising. ``damage``: the summed scores of each, never falling, where scores add up;
    None where they only rank. ``exact``: no other selection saves as much at less damage (of ranked ones: there is no
    other). ``units``: indices of the units of a selection, by its place.
    """

    saved: tuple[int, ...]
    damage: tuple[float, ...] | None
    exact: bool
    units: Callable[[int], frozenset[int]]

    def __len__(self) -> int:
        return len(self.saved)

    def reaching(self, saving: float) -> int | None:
        """Place of the first selection that saves ``saving`` MACs or more, which is the least damaging; None where even
        the last saves less."""
        place = bisect.bisect_left(self.saved, saving)
        return place if place < len(self.saved) else None


def front(scores: Sequence[float], savings: Sequence[int], order: Sequence[int], additive: bool) -> Front:
    """The best selections among units that score ``scores`` and save ``savings`` MACs each.

    Additive scores are damage: of each selection no other saves as much at less, by `pareto`; where that would hold
    more than `MOST_PAIRS` pairs, by `greedy`. Other scores only rank, and what goes is a beginning of ``order``
    (indices of units, first to go first). Raises `PlanError` for an additive score below 0.
    """
    if not additive:
        return ranked(savings, order)
    if any(score < 0 for score in scores):
        raise PlanError(f"a criterion whose scores add up never scores below 0, but one unit scored {min(scores):g}")
    return pareto(scores, savings) or greedy(scores, savings)


def ranked(savings: Sequence[int], order: Sequence[int]) -> Front:
    """The beginnings of an order, less those that save no more than a shorter one."""
    totals = [0, *itertools.accumulate(savings[i] for i in order)]
    most = itertools.accumulate([-1, *totals[:-1]], max)
    lengths = [n for n, before in enumerate(most) if totals[n] > before]
    return Front(tuple(totals[n] for n in lengths), None, True, lambda place: frozenset(order[: lengths[place]]))


def pareto(scores: Sequence[float], savings: Sequence[int], most: int = MOST_PAIRS) -> Front | None:
    """Every Pareto-optimal selection, by dynamic programming over pairs (saved, damage) as Nemhauser and Ullmann (1969)
    do; None where more than ``most`` pairs would have to be held.

    The pairs of k units are those of k - 1 with and without the k-th, less what another pair dominates. Units of equal
    saving keep them few: n sites of one size have at most n + 1. Equal pairs go to the later unit.
    """
    useful = [i for i, saving in enumerate(savings) if saving > 0]
    scale = math.gcd(*(savings[i] for i in useful)) or 1  # so that totals fit into 64 bits
    saved, damage = np.zeros(1, np.int64), np.zeros(1)
    history: list[tuple[int, int, NDArray[np.int32]]] = []
    for i in useful:
        count = len(saved)
        saved = np.concatenate([saved, saved + savings[i] // scale])  # without, then with unit i
        damage = np.concatenate([damage, damage + scores[i]])
        without = np.arange(2 * count) < count
        falling = np.lexsort((without, damage, -saved))
        least = np.minimum.accumulate(damage[falling])
        kept = falling[np.r_[True, damage[falling][1:] < least[:-1]]][::-1]
        if len(kept) > most:
            return None
        saved, damage = saved[kept], damage[kept]
        history.append((i, count, kept.astype(np.int32)))
    free = int(saved[0] > 0)  # units without damage dominate nothing at all, which is a selection all the same

    def units(place: int) -> frozenset[int]:
        found: set[int] = set()
        if place < free:
            return frozenset()
        place -= free
        for i, count, kept in reversed(history):
            place = int(kept[place])
            if place >= count:
                found.add(i)
                place -= count
        return frozenset(found)

    totals = (0,) * free + tuple(int(total) * scale for total in saved)
    return Front(totals, (0.0,) * free + tuple(map(float, damage)), True, units)


def greedy(scores: Sequence[float], savings: Sequence[int]) -> Front:
    """Selections by score per MAC saved, each with what it can spare taken back, less what another one dominates.

    Of every beginning of the order, the units of the highest scores leave again as long as more is saved than by the
    beginning before it. Among units of one size that is as good as `pareto`, and worse where sizes differ:
    docs/criteria.md has by how much.
    """
    useful = [i for i, saving in enumerate(savings) if saving > 0]
    order = sorted(useful, key=lambda i: (scores[i] / savings[i], -i))
    found: list[tuple[int, float, int, tuple[int, ...]]] = [(0, 0.0, 0, ())]
    before, damage = 0, 0.0
    for length, i in enumerate(order, 1):
        saved, damage = before + savings[i], damage + scores[i]
        found.append((saved, damage, length, ()))
        spared: list[int] = []
        left, harm = saved, damage
        for j in sorted(order[: length - 1], key=lambda j: -scores[j]):
            if left - savings[j] > before:
                spared.append(j)
                left, harm = left - savings[j], harm - scores[j]
                found.append((left, max(harm, 0.0), length, tuple(spared)))
        before = saved
    best: list[tuple[int, float, int, tuple[int, ...]]] = []
    for one in sorted(found, key=lambda one: (-one[0], one[1])):
        if not best or one[1] < best[-1][1]:
            best.append(one)
    if best[-1][0] > 0:
        best.append(found[0])
    best.reverse()
    return Front(
        tuple(one[0] for one in best),
        tuple(one[1] for one in best),
        False,
        lambda place: frozenset(order[: best[place][2]]) - frozenset(best[place][3]),
    )
