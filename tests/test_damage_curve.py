"""The curve of a plan: what it says on a terminal, as data and as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
from rich.console import Console
from test_report import make_plan

from f3core import damage_curve
from f3core.budget import Budget
from f3core.candidates import front_of
from f3core.damage_curve import Curve
from f3core.plan import PruningPlan
from f3core.sites import PruningAxis


def curve(plan: PruningPlan, additive: bool = True) -> Curve:
    scores, savings = [unit.score for unit in plan.units], [unit.macs_saved for unit in plan.units]
    return Curve(plan, front_of(plan.units, scores, savings, additive=additive))


def cells(*chosen: int) -> PruningPlan:
    return make_plan(PruningAxis.CELL).choosing(chosen)


def shown(found: Curve) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(damage_curve.render(found))
    return console.export_text()


def test_data_holds_every_point_and_the_steps_beside_the_plan() -> None:
    found = damage_curve.data(curve(cells(0, 1, 2)))
    assert json.loads(json.dumps(found)) == found
    assert found["points"][0] == {"macs": 1.0, "saved": 0, "predicted": 0.0}
    assert found["points"][-1]["saved"] == sum(unit.macs_saved for unit in cells().units)
    assert found["plan"]["saved"] == 6 * 10**8
    assert found["plan"]["macs"] == pytest.approx(1 - 6 / 400)
    assert found["less"]["saved"] < found["plan"]["saved"] < found["more"]["saved"]
    assert found["less"] in found["points"]
    assert found["more"] in found["points"]


def test_the_ends_have_no_further_step() -> None:
    assert damage_curve.data(curve(cells()))["less"] is None
    assert damage_curve.data(curve(cells(*range(8))))["more"] is None
    (less,) = [line for line in shown(curve(cells())).splitlines() if "one step less" in line]
    assert less.split() == ["one", "step", "less", "–"]


def test_the_terminal_marks_the_plan_and_prices_a_step() -> None:
    text = shown(curve(cells(0, 1, 2)))
    assert "predicted damage: sum of aas (up) against MACs saved (right)" in text
    assert text.count("●") == 2  # in the drawing and its legend
    rows = {name: line.split() for line in text.splitlines() for name in ("less", "this", "more") if f"{name} " in line}
    assert rows["this"] == ["●", "this", "plan", "98.50%", "3", "3.75"]
    assert rows["less"] == ["one", "step", "less", "98.75%", "2", "−100", "MMAC", "3.5", "−0.25"]
    assert rows["more"] == ["one", "step", "more", "98.25%", "3", "+100", "MMAC", "4.75", "+1"]
    assert max(map(len, text.splitlines())) <= 80


def test_scores_that_only_rank_show_units_instead_of_damage() -> None:
    found = curve(cells(0, 1), additive=False)
    assert damage_curve.data(found)["points"][3]["units"] == 3.0
    text = shown(found)
    assert "units pruned, in the order of aas" in text
    assert "damage" not in text


def test_a_plan_may_stand_above_the_curve() -> None:
    found = damage_curve.data(curve(cells(7)))
    best = next(point for point in found["points"] if point["saved"] >= found["plan"]["saved"])
    assert best["predicted"] < found["plan"]["predicted"]


def test_units_that_save_nothing_make_no_curve() -> None:
    plan = cells()
    idle = plan.model_copy(update={"units": tuple(u.model_copy(update={"macs_saved": 0}) for u in plan.units)})
    assert "no unit saves anything" in shown(curve(idle))


@pytest.mark.parametrize("additive", [True, False])
def test_the_picture_marks_every_plan(tmp_path: Path, additive: bool) -> None:
    plans: list[Any] = [cells(0, 1, 2), cells(4, 5).model_copy(update={"budget": Budget(macs=0.9)})]
    damage_curve.draw(curve(plans[0], additive), plans, tmp_path / "curve.png")
    damage_curve.draw(curve(plans[0], additive), [], tmp_path / "bare.png")
    marked, bare = iio.imread(tmp_path / "curve.png"), iio.imread(tmp_path / "bare.png")
    assert marked.shape == bare.shape
    assert (marked != bare).any()
