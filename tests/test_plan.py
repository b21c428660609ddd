"""Plans: units, ranking, selection and step ranges as laws; the F3 method on synthetic scores and costs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from f3core_f3.criteria import AggregateAttentionScore, Random
from f3core_f3.method import F3
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_scores import make_scores

from f3core.costs import Costs, SiteCost
from f3core.errors import PlanError
from f3core.method import PlanRequest
from f3core.plan import PruningPlan, StepRange, Unit, make_units, rank, round_half_up, select, split_steps
from f3core.sites import FORWARD, KINDS, AttentionKind, AttentionSite, PruningAxis, Removal

TA = AttentionKind.TEMPORAL
COMPONENTS = ("transformer", "transformer_2")
SITES = tuple(
    AttentionSite(c, f"blocks.{i}", i, KINDS, {TA: (Removal.SELF_ONLY,)}) for c in COMPONENTS for i in range(3)
)
MACS = {"transformer": {FORWARD: 10**6}, "transformer_2": {FORWARD: 2 * 10**6}}
SAVED = {site.fqn: 1000 + 7 * i**2 for i, site in enumerate(SITES)}
COSTS = Costs(
    forward=MACS,
    sites={
        fqn: {FORWARD: SiteCost(maps={TA: n}, saved={"TA:self_only": n, "TA:drop": 3 * n})} for fqn, n in SAVED.items()
    },
)
LEVELS = (950.0, 800.0, 620.0, 500.0, 310.0, 90.0)
PASSES = {"transformer": {FORWARD: (2, 2, 2, 0, 0, 0)}, "transformer_2": {FORWARD: (0, 0, 0, 2, 2, 1)}}

ratios = st.floats(0, 1) | st.fractions(0, 1, max_denominator=40).map(float)
axes = st.sampled_from(list(PruningAxis))
levels_strategy = st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=60).map(
    lambda found: [n / 1000 for n in sorted(found, reverse=True)]
)


def request(axis: PruningAxis = PruningAxis.LAYER, ratio: float = 0.5, **other: Any) -> PlanRequest:
    values: dict[str, Any] = {
        "adapter": "synthetic",
        "sites": SITES,
        "scores": make_scores([s.fqn for s in SITES], LEVELS, passes=PASSES),
        "costs": COSTS,
        "target": TA,
        "axis": axis,
        "removals": {site.fqn: Removal.SELF_ONLY for site in SITES},
        "criterion": AggregateAttentionScore(),
        "ratio": ratio,
    }
    return PlanRequest(**{**values, **other})


def units_of(n: int) -> list[Unit]:
    return [Unit(name=f"u{i}", sites=("t.a",), ranges=(0,)) for i in range(n)]


# --- how many, and which --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(ratios, st.integers(0, 300))
@example(0.35, 10)
@example(0.29, 50)
@example(0.5, 1)
def test_counts_are_exact(ratio: float, count: int) -> None:
    exact = Decimal(repr(ratio)) * count
    expected = int(exact.to_integral_value(rounding=ROUND_HALF_UP))
    assert round_half_up(ratio, count) == expected
    assert abs(expected - exact) <= Decimal("0.5")
    assert len(select(units_of(count), [float(i % 3) for i in range(count)], ratio)) == expected


@pytest.mark.parametrize(
    ("ratio", "count", "gone"), [(0.35, 10, 4), (0.25, 10, 3), (0.5, 5, 3), (0.29, 50, 15), (1, 7, 7)]
)
def test_halves_go_up_free_of_binary_rounding(ratio: float, count: int, gone: int) -> None:
    assert round_half_up(ratio, count) == gone


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3).map(float), max_size=12), ratios, ratios)
def test_selection_is_the_lowest_and_nested_in_ratio(scores: list[float], a: float, b: float) -> None:
    units = units_of(len(scores))
    small, large = (select(units, scores, ratio) for ratio in sorted((a, b)))
    assert small <= large
    for gone in large:
        for kept in set(range(len(units))) - large:
            assert scores[gone] < scores[kept] or (scores[gone] == scores[kept] and gone > kept)
    assert sorted(rank(units, scores)) == list(range(len(units)))


def test_ties_go_to_the_later_unit() -> None:
    assert rank(units_of(4), [1.0, 0.0, 0.0, 1.0]) == [2, 1, 3, 0]
    assert select(units_of(4), [0.0] * 4, 0.5) == {2, 3}
    assert rank(units_of(2), [0.0, -0.0]) == [1, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(bad: float) -> None:
    with pytest.raises(PlanError, match="unit 'u1' scored"):
        select(units_of(3), [0.0, bad, 1.0], 0.0)
    with pytest.raises(PlanError, match="2 units but 1 scores"):
        rank(units_of(2), [0.0])


@pytest.mark.parametrize("ratio", [1.0000001, -0.1, math.nan, math.inf])
def test_ratio_must_be_a_share(ratio: float) -> None:
    with pytest.raises(PlanError, match="ratio must lie in"):
        select(units_of(2), [0.0, 1.0], ratio)


# --- step ranges ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(levels_strategy, st.data())
def test_step_ranges_cover_every_number_once(levels: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(levels)))
    ranges = split_steps(levels, count)
    assert len(ranges) == count
    bounds = [r.low for r in ranges if r.low is not None]
    anywhere = data.draw(st.lists(st.floats(allow_nan=False), max_size=20))
    for level in [*anywhere, *levels, *bounds, *(math.nextafter(b, math.inf) for b in bounds), math.inf, -math.inf]:
        assert sum(level in r for r in ranges) == 1
    homes = [next(i for i, r in enumerate(ranges) if level in r) for level in levels]
    assert homes == sorted(homes)  # noisy to clean
    sizes = [homes.count(i) for i in range(count)]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    shuffled = random.Random(0).sample(levels, len(levels))
    assert split_steps(shuffled, count) == ranges


@pytest.mark.parametrize("count", [0, -1, 4])
def test_more_ranges_than_steps_are_refused(count: int) -> None:
    with pytest.raises(PlanError, match=f"3 calibrated steps cannot be cut into {count}"):
        split_steps([3.0, 2.0, 1.0], count)


def test_step_ranges_say_what_they_are() -> None:
    assert str(StepRange()) == "all steps"
    assert str(StepRange(low=500)) == "t ∞–500"
    assert str(StepRange(high=500, low=250.5)) == "t 500–250.5"
    assert str(StepRange(high=250.5)) == "t 250.5–0"
    assert (250.5 in StepRange(low=250.5), 250.5 in StepRange(high=250.5)) == (False, True)


@pytest.mark.parametrize("steps", [20, 30, 50, 100])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_plan_made_at_50_steps_prunes_the_same_noise_at_any_number(steps: int, shift: float) -> None:
    """Flow matching levels t = 1000·s·σ / (1 + (s − 1)·σ), as Wan's scheduler spaces them."""

    def levels(count: int) -> list[float]:
        sigmas = [1 - i / count for i in range(count)]
        return [1000 * shift * s / (1 + (shift - 1) * s) for s in sigmas]

    calibrated = levels(50)
    passes = {"transformer": {FORWARD: (2,) * 50}}
    scores = make_scores([s.fqn for s in SITES[:3]], calibrated, passes=passes, prompts=())
    plan = F3().plan(
        request(PruningAxis.TIMESTEP, 0.4, sites=SITES[:3], scores=scores, criterion=Random(), step_ranges=5)
    )
    assert len(plan.pruned) == 2
    pruned = {unit.ranges[0] for unit in plan.pruned}
    for level in levels(steps):
        neighbour = min(calibrated, key=lambda known: abs(known - level))
        if min(abs(level - b) for r in plan.step_ranges for b in (r.low,) if b is not None) > 1e-9:
            assert plan.range_of(level) == calibrated.index(neighbour) // 10
    share = sum(plan.range_of(level) in pruned for level in levels(steps)) / steps
    assert share == pytest.approx(0.4, abs=2 / steps)


# --- units ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(axes, st.integers(1, 5), st.permutations(SITES))
def test_units_are_the_axis_whatever_the_order_of_sites(
    axis: PruningAxis, count: int, shuffled: Sequence[AttentionSite]
) -> None:
    units = make_units(shuffled, axis, count)
    assert units == make_units(SITES, axis, count)
    assert len({unit.name for unit in units}) == len(units)
    cells = [(site, r) for unit in units for site in unit.sites for r in unit.ranges]
    assert sorted(cells) == sorted((site.fqn, r) for site in SITES for r in range(count))
    assert len(units) == {"layer": len(SITES), "timestep": count, "cell": len(SITES) * count}[axis.value]
    order = {site.fqn: site.index for site in SITES}
    keys = [(unit.ranges[0], order[unit.sites[0]]) for unit in units]
    assert keys == sorted(keys)  # later means later steps, then deeper


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=len(SITES), max_size=len(SITES)))
def test_ranges_without_the_target_are_no_units_of_their_own(here: list[list[bool]]) -> None:
    occurs = dict(zip((site.fqn for site in SITES), here, strict=True))
    cells = make_units(SITES, PruningAxis.CELL, 4, lambda fqn, i: occurs[fqn][i])
    for fqn, times in occurs.items():
        mine = [unit.ranges for unit in cells if unit.sites == (fqn,)]
        assert [i for ranges in mine for i in ranges] == (list(range(4)) if any(times) else [])
        assert len(mine) == sum(times)
        assert all(sum(times[i] for i in ranges) == 1 for ranges in mine)
    steps = make_units(SITES, PruningAxis.TIMESTEP, 4, lambda fqn, i: occurs[fqn][i])
    assert len(steps) == sum(any(times) for times in zip(*here, strict=True))


def test_sites_of_one_layer_go_together_on_the_layer_axis_alone() -> None:
    def site(path: str, index: int, component: str = "net") -> AttentionSite:
        return AttentionSite(component, path, index, KINDS, {TA: (Removal.SELF_ONLY,)})

    sites = [site(f"blocks.{i}.{name}", i) for i in range(3) for name in ("attn1", "attn_temp")]
    units = make_units(sites, PruningAxis.LAYER, 2)
    assert [(unit.name, unit.sites, unit.ranges) for unit in units] == [
        (f"net.blocks.{i}", (f"net.blocks.{i}.attn1", f"net.blocks.{i}.attn_temp"), (0, 1)) for i in range(3)
    ]
    assert [unit.sites for unit in make_units(sites, PruningAxis.CELL, 1)] == [(s.fqn,) for s in sites]
    strewn = [
        site("down.0", 0),
        site("up.0", 0),
        site("down.1", 1),
        site("up.1", 1),
        site("mid", 2),
        site("a.b", 0, "x"),
    ]
    assert [unit.name for unit in make_units(strewn, PruningAxis.LAYER, 1)] == ["net[0]", "x.a.b", "net[1]", "net.mid"]


# --- files ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(axes, ratios)
def test_plans_round_trip(tmp_path_factory: pytest.TempPathFactory, axis: PruningAxis, ratio: float) -> None:
    path = tmp_path_factory.mktemp("p") / "plan.json"
    plan = F3().plan(request(axis, ratio))
    plan.save(path)
    assert PruningPlan.load(path) == plan
    assert PruningPlan.load(path).model_dump_json() == plan.model_dump_json()


def _edit(data: dict[str, Any], at: str, value: Any) -> None:
    *keys, last = [int(k) if k.isdigit() else k for k in at.split("/")]
    inner: Any = data
    for key in keys:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        ("units/0/ranges", [1], "names a step range that the plan does not have"),
        ("units/0/ranges", [-1], "names a step range that the plan does not have"),
        ("units/0/sites", ["transformer.nowhere"], "for which the plan has no removal"),
        ("units/1/pruned", "perhaps", "units.1.pruned"),
        ("units/1/score", None, "units.1.score"),
        ("units/1/macs_saved", 1.5, "units.1.macs_saved"),
        ("units/1/note", "x", "units.1.note: Extra inputs"),
        ("ratio", 1.5, "ratio"),
        ("target", "XA", "target"),
        ("axis", "diagonal", "axis"),
        ("version", 2, "version"),
        ("surprise", 1, "surprise: Extra inputs"),
        ("removals/transformer.blocks.0", "melt", "removals"),
        ("removals/transformer.blocks.0", ..., "for which the plan has no removal"),
        ("macs_after", ..., "macs_after: Field required"),
    ],
)
def test_a_tampered_plan_is_refused_by_file_and_field(tmp_path: Path, at: str, value: Any, says: str) -> None:
    path = tmp_path / "plan.json"
    F3().plan(request()).save(path)
    data = json.loads(path.read_text())
    _edit(data, at, value)
    path.write_text(json.dumps(data))
    with pytest.raises(PlanError) as caught:
        PruningPlan.load(path)
    assert str(caught.value).startswith(f"{path}: not a valid plan: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"version": NaN}'])
def test_what_is_no_plan_is_refused_by_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json: not a valid plan: "):
        PruningPlan.load(path)
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        PruningPlan.load(tmp_path / "none")


def test_a_level_in_a_gap_is_refused() -> None:
    plan = F3().plan(request()).model_copy(update={"step_ranges": (StepRange(low=500), StepRange(high=400))})
    with pytest.raises(PlanError, match="noise level 450 is in none"):
        plan.range_of(450.0)
