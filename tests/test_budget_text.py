"""The table of what was tried on the way to a budget."""

from __future__ import annotations

from f3core.budget import Tried
from f3core.budget_text import tried_lines


def tried(units: int, predicted: float | None, chosen: bool = False, **measured: float) -> Tried:
    return Tried(
        macs=1 - units / 100, units=units, predicted=predicted, measured=measured, verdict="met", chosen=chosen
    )


def test_a_row_a_candidate_with_all_its_figures() -> None:
    head, rows = tried_lines([tried(0, 0.0, all=1.0), tried(3, 12.3456, chosen=True, all=0.98, digit=1.0)])
    assert head == ["units", "MACs", "predicted damage", "all", "digit", "verdict"]
    assert rows == [
        ["0", "100.0%", "0", "1", "", "met"],
        ["● 3", "97.0%", "12.35", "0.98", "1", "met, chosen"],
    ]


def test_scores_that_only_rank_predict_no_damage() -> None:
    head, rows = tried_lines([tried(2, None, True, speed=1.5)])
    assert head == ["units", "MACs", "speed", "verdict"]
    assert rows == [["● 2", "98.0%", "1.5", "met, chosen"]]


def test_no_number_loses_what_stands_before_its_point() -> None:
    _, ((_, _, *told, _),) = tried_lines([tried(1, None, a=0.98124, b=1234.5, c=123456.7, d=float("inf"))])
    assert told == ["0.9812", "1234", "123457", "inf"]
