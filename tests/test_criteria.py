"""Criteria of f3core_f3 against sums written out by hand, for every axis."""

from __future__ import annotations

import dataclasses

import f3core_f3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_impact import LEVELS, make_impact
from test_scores import make_scores

from f3core.errors import ScoresError
from f3core.method import Criterion
from f3core.plan import Unit, make_units, rank, split_steps
from f3core.scores import Scores
from f3core.sites import KINDS, AttentionKind, AttentionSite, PruningAxis

NAMES = ("aas", "aas_mean", "drift", "late", "propagated_drift", "random", "reverse")
TA = AttentionKind.TEMPORAL
# scored in another order than the model's, so that a mix-up of indices shows
SCORES = make_scores(sites=("transformer.c", "transformer.a", "transformer.b"), levels=(900, 700, 500, 300, 100))
SITES = [AttentionSite("transformer", name, index, KINDS) for index, name in enumerate("abc")]


def criterion(name: str) -> Criterion:
    made: Criterion = {entry.name: entry for entry in f3core_f3.f3core_criteria()}[name].load()
    assert made.name == name
    return made


def cells(unit: Unit, boundaries: list[float]) -> list[tuple[int, int]]:
    """(site, step) indices that a unit covers; range r holds the levels between boundaries r and r + 1."""
    return [
        (SCORES.header.sites.index(site), t)
        for site in unit.sites
        for r in unit.ranges
        for t, level in enumerate(SCORES.header.levels)
        if boundaries[r] >= level > boundaries[r + 1]
    ]


def mass(s: int, t: int, kind: AttentionKind) -> float:
    column = [AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL].index(kind)
    return sum(float(p.mass[s, t, h, column]) for p in SCORES.prompts.values() for h in range(SCORES.header.heads[s]))


def rows(s: int, t: int) -> float:
    return sum(float(p.queries[s, t]) * SCORES.header.heads[s] for p in SCORES.prompts.values())


def drift(s: int, t: int) -> float:
    moved = sum(float(p.drift[s, t]) for p in SCORES.prompts.values())
    return moved / sum(float(p.drift_queries[s, t]) for p in SCORES.prompts.values())


def test_every_criterion_is_registered() -> None:
    assert sorted(entry.name for entry in f3core_f3.f3core_criteria()) == sorted(NAMES)


@pytest.mark.parametrize(("axis", "count", "units"), [("layer", 1, 3), ("timestep", 5, 5), ("cell", 2, 6)])
@pytest.mark.parametrize("kind", list(AttentionKind))
def test_against_sums_by_hand(axis: str, count: int, units: int, kind: AttentionKind) -> None:
    ranges = split_steps(SCORES.header.levels, count)
    boundaries = {1: [1e9, -1e9], 2: [1e9, 600, -1e9], 5: [1e9, 800, 600, 400, 200, -1e9]}[count]
    made = make_units(SITES, PruningAxis(axis), count)
    assert len(made) == units
    scores = Scores(dataclasses.replace(SCORES.header, drift_target=kind), SCORES.prompts)
    covered = [cells(unit, boundaries) for unit in made]
    assert sorted(c for some in covered for c in some) == [(s, t) for s in range(3) for t in range(5)]
    aas = [sum(mass(s, t, kind) for s, t in some) for some in covered]
    expected = {
        "aas": aas,
        "reverse": [-value for value in aas],
        "aas_mean": [v / sum(rows(s, t) for s, t in some) for v, some in zip(aas, covered, strict=True)],
        "drift": [sum(drift(s, t) for s, t in some) for some in covered],
    }
    for name, values in expected.items():
        assert criterion(name).score(made, ranges, scores, kind, 0) == pytest.approx(values, rel=1e-12), name


def test_drift_of_another_target_is_refused() -> None:
    units = make_units(SITES, PruningAxis.LAYER, 1)
    with pytest.raises(ScoresError, match="hold the drift of removing TA, not CA; score again"):
        criterion("drift").score(units, split_steps([1.0], 1), SCORES, AttentionKind.CROSS, 0)


def test_propagated_drift_sums_the_predicted_damage_of_cells() -> None:
    impact = make_impact(2)
    scores = dataclasses.replace(make_scores(levels=LEVELS), impact=impact)
    by_step = impact.by_step(LEVELS)
    found = criterion("propagated_drift")
    assert (found.additive, found.needs_impact) == (True, True)
    sites = [AttentionSite("transformer", name, index, KINDS) for index, name in enumerate("abc")]
    layers = found.score(make_units(sites, PruningAxis.LAYER, 1), split_steps(LEVELS, 1), scores, TA, 0)
    assert layers == pytest.approx(list(by_step.sum(axis=1)))
    steps = found.score(make_units(sites, PruningAxis.TIMESTEP, 5), split_steps(LEVELS, 5), scores, TA, 0)
    assert steps == pytest.approx(list(by_step.sum(axis=0)))
    cells = found.score(make_units(sites, PruningAxis.CELL, 2), impact.ranges, scores, TA, 0)
    assert sum(cells) == pytest.approx(impact.damage.mean(axis=1).sum())
    with pytest.raises(ScoresError, match="ranks by the impact of removals"):
        found.score([], impact.ranges, make_scores(), TA, 0)


@pytest.mark.parametrize("name", ["aas", "aas_mean", "drift", "reverse"])
def test_a_site_that_was_not_scored_is_refused(name: str) -> None:
    unit = Unit(name="transformer.z", sites=("transformer.z",), ranges=(0,))
    with pytest.raises(ScoresError, match="was not scored"):
        criterion(name).score([unit], split_steps(SCORES.header.levels, 1), SCORES, TA, 0)


def test_cells_without_queries_score_nothing() -> None:
    """The second denoiser of a two-stage model does not run at high noise."""
    idle = {i: dataclasses.replace(p, queries=p.queries * 0, drift_queries=p.queries * 0, mass=p.mass * 0)
            for i, p in SCORES.prompts.items()}  # fmt: skip
    units = make_units(SITES, PruningAxis.LAYER, 1)
    ranges = split_steps(SCORES.header.levels, 1)
    for name in ("aas", "aas_mean", "drift"):
        assert criterion(name).score(units, ranges, Scores(SCORES.header, idle), TA, 0) == [0.0] * 3


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(max_size=12), unique=True, min_size=1, max_size=8),
    st.integers(0, 2**40),
)
def test_random_depends_on_seed_and_name_alone(names: list[str], seed: int) -> None:
    units = [Unit(name=name, sites=("transformer.a",), ranges=(0,)) for name in names]
    other = [Unit(name=name, sites=("transformer.b", "transformer.c"), ranges=(1, 2)) for name in reversed(names)]
    one = criterion("random").score(units, split_steps([5.0, 1.0], 1), SCORES, TA, seed)
    two = criterion("random").score(other, split_steps([9.0], 1), make_scores(seed=4), AttentionKind.CROSS, seed)
    assert one == two[::-1]
    assert len(set(one)) == len(names)
    assert all(0 <= value < 1 for value in one)
    assert one != criterion("random").score(units, split_steps([5.0, 1.0], 1), SCORES, TA, seed + 1)


def test_random_looks_uniform() -> None:
    units = [Unit(name=f"transformer.blocks.{i}", sites=("transformer.a",), ranges=(0,)) for i in range(2000)]
    values = criterion("random").score(units, split_steps([1.0], 1), SCORES, TA, 0)
    for tenth in range(10):
        assert 140 <= sum(tenth / 10 <= v < (tenth + 1) / 10 for v in values) <= 260  # 200 ± 4.5 σ


def test_late_takes_the_last_units_first_and_needs_no_scores() -> None:
    late = criterion("late")
    units = make_units(SITES, PruningAxis.CELL, 2)
    unscored = Scores(SCORES.header, {})
    ranked = rank(units, late.score(units, split_steps([5.0, 1.0], 2), unscored, TA, 0))
    assert ranked == list(range(len(units)))[::-1]
    assert not late.needs_scores
    with pytest.raises(ScoresError, match="no prompt"):
        criterion("aas").score(units, split_steps([5.0, 1.0], 2), unscored, TA, 0)
