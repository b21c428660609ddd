"""Selections: exact ones against brute force, greedy ones against exact ones, ranked ones against their order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.errors import PlanError
from f3core.selection import Front, front, greedy, pareto, ranked

Units = list[tuple[float, int]]
# few distinct values, so that ties and equal savings come up; whole numbers, so that sums are exact in any order
units = st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 6)), max_size=9)
awkward = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10**15)), max_size=9)


def split(drawn: Units) -> tuple[list[float], list[int]]:
    return [score for score, _ in drawn], [saving for _, saving in drawn]


def least(drawn: Units, saving: int) -> float | None:
    """The least damage of any selection that saves so much."""
    every = itertools.chain.from_iterable(itertools.combinations(drawn, n) for n in range(len(drawn) + 1))
    return min((sum(s for s, _ in some) for some in every if sum(w for _, w in some) >= saving), default=None)


def check(found: Front, drawn: Units) -> None:
    """What every front holds: it starts at nothing, rises, and its selections are what it says of them."""
    assert (found.saved[0], found.units(0)) == (0, frozenset())
    assert list(found.saved) == sorted(set(found.saved))
    assert found.reaching(0) == 0
    assert found.reaching(found.saved[-1] + 1) is None
    for place, saved in enumerate(found.saved):
        chosen = found.units(place)
        assert saved == sum(drawn[i][1] for i in chosen)
        assert found.reaching(saved) == place
        if found.damage is not None:
            assert found.damage[place] == pytest.approx(sum(drawn[i][0] for i in chosen))
            assert place == 0 or found.damage[place] >= found.damage[place - 1]
    assert found.saved[-1] == sum(saving for _, saving in drawn)


@settings(deadline=None, max_examples=150)
@given(units)
def test_exact_selection_is_the_best_of_all(drawn: Units) -> None:
    found = pareto(*split(drawn))
    assert found is not None
    assert found.exact
    assert found.damage is not None
    check(found, drawn)
    for saving in range(found.saved[-1] + 1):
        place = found.reaching(saving)
        assert place is not None
        assert found.damage[place] == least(drawn, saving)


@settings(deadline=None, max_examples=100)
@given(awkward)
def test_exact_selection_takes_any_scores_and_savings(drawn: Units) -> None:
    found = pareto(*split(drawn))
    assert found is not None
    assert found.damage is not None
    check(found, drawn)
    for place, saved in enumerate(found.saved):
        assert found.damage[place] == pytest.approx(least(drawn, saved), abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(units)
def test_greedy_selection_is_never_better_and_reaches_as_far(drawn: Units) -> None:
    best, quick = pareto(*split(drawn)), greedy(*split(drawn))
    assert best is not None
    assert best.damage is not None
    assert quick.damage is not None
    assert not quick.exact
    check(quick, drawn)
    for saving in range(best.saved[-1] + 1):
        exact, rough = best.reaching(saving), quick.reaching(saving)
        assert exact is not None
        assert rough is not None
        assert quick.damage[rough] >= best.damage[exact]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=12))
def test_among_units_of_one_size_greedy_is_exact(scores: list[float]) -> None:
    savings = [7] * len(scores)
    best, quick = pareto(scores, savings), greedy(scores, savings)
    assert best is not None
    lowest = sorted(scores)
    assert best.damage is not None
    assert best.damage[best.reaching(7 * (len(scores) // 2)) or 0] == sum(lowest[: len(scores) // 2])
    assert (best.saved, best.damage) == (quick.saved, quick.damage)


def test_greedy_takes_back_what_it_can_spare() -> None:
    scores, savings = [1.0, 2.0, 12.0], [2, 3, 10]  # by score per MAC: the first, the second, the third
    quick = greedy(scores, savings)
    place = quick.reaching(10)
    assert place is not None
    assert quick.units(place) == {2}


def test_equal_units_go_from_the_last() -> None:
    found = pareto([1.0] * 4, [5] * 4)
    assert found is not None
    assert [sorted(found.units(place)) for place in range(5)] == [[], [3], [2, 3], [1, 2, 3], [0, 1, 2, 3]]


def test_units_that_save_nothing_stay() -> None:
    for made in (pareto([0.0, 1.0], [0, 5]), greedy([0.0, 1.0], [0, 5])):
        assert made is not None
        assert [made.units(place) for place in range(len(made))] == [frozenset(), frozenset({1})]
    assert front([], [], [], additive=True).saved == (0,)


def test_units_without_damage_go_only_once_something_must() -> None:
    for made in (pareto([0.0, 0.0, 3.0], [4, 1, 1]), greedy([0.0, 0.0, 3.0], [4, 1, 1])):
        assert made is not None
        assert made.units(0) == frozenset()
        assert made.reaching(1) == made.reaching(5) == 1
        assert made.units(1) == {0, 1}


def test_too_many_pairs_are_left_to_greed() -> None:
    savings = [2**i for i in range(16)]  # every sum differs: 2^16 pairs
    assert pareto([float(saving) for saving in savings], savings) is None
    found = front([float(saving) for saving in savings], savings, range(16), additive=True)
    assert not found.exact
    assert found.saved[-1] == sum(savings)


def test_a_front_of_many_like_sites_is_small() -> None:
    scores = [float((7 * i) % 97) for i in range(400)]
    found = pareto(scores, [10**15 * (1 + i % 4) for i in range(400)])
    assert found is not None
    assert len(found) <= 1001


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-2, 6), max_size=9), st.randoms())
def test_ranked_selections_are_beginnings_of_the_order(savings: list[int], random: object) -> None:
    order = list(range(len(savings)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = ranked(savings, order)
    assert found.damage is None
    assert list(found.saved) == sorted(set(found.saved))
    totals = [sum(savings[i] for i in order[:n]) for n in range(len(order) + 1)]
    assert found.saved[-1] == max(totals)
    for place, saved in enumerate(found.saved):
        chosen = found.units(place)
        assert chosen == set(order[: len(chosen)])
        assert totals.index(saved) == len(chosen)  # none shorter saves as much


def test_damage_below_nothing_is_refused() -> None:
    with pytest.raises(PlanError, match="never scores below 0, but one unit scored -1"):
        front([2.0, -1.0], [1, 1], [0, 1], additive=True)
    assert front([2.0, -1.0], [1, 1], [1, 0], additive=False).saved == (0, 1, 2)
