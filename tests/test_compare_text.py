"""The tables and the picture of a comparison: every number in its unit, intervals, marks, names that do not collide."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from f3core import compare_figure, compare_text
from f3core.compare_rows import Comparison, Outcome, rows_of
from f3core.evaluate import PairedTiming, Timing

NAMES = ("unpruned", "F3, a quarter", "F3, half", "ToMe", "ToMeSD", "token pruning", "PAB", "F3 + PAB", "FasterCache")
BETTER = {"judge": True, "distance": False, "likeness": True}
PRUNING = {
    "method": "f3", "criterion": "aas", "scope": "TA", "axis": "layer", "goal": "ratio 0.5", "pruned": ["a", "b"],
    "units": 4, "removals": {"self_only": 2},
}  # fmt: skip


def timing(before: float, speedup: float) -> PairedTiming:
    runs = Timing.of([before] * 3, [before / speedup] * 3)
    return PairedTiming(clips=2, steps=4, calls=8, denoiser=runs, end_to_end=runs)


def outcome(seed: int, place: int, metrics: tuple[str, ...], timed: bool) -> Outcome:
    speed, wave = 1 + place / 8, 0.01 * ((seed * 7 + place * 3) % 5)
    quality = {
        "judge": {"all": 0.9 - 0.05 * place + wave, "one": 1.0 - 0.01 * wave},
        "distance": {"distance": 3.0 + place + wave, "all": 2.0},
        "likeness": {"likeness": 30.0 - place + wave if place else "Infinity"},
    }
    fields: dict[str, Any] = {
        "seed": seed, "name": NAMES[place], "macs": int(1e9 / speed), "parameters": 10**6, "damage": 0.01 * place,
        "quality": {metric: quality[metric] for metric in metrics},
        "pruning": PRUNING if place and NAMES[place] != "PAB" else None,
        "accelerators": ["pab (range: 2)"] if "PAB" in NAMES[place] else [],
        "predicted": 0.9 if place and "PAB" not in NAMES[place] else None,
    }  # fmt: skip
    made = Outcome.model_validate_json(json.dumps(fields))
    measured = timing(2.0, speed) if timed and place and seed == 0 else None
    return made.model_copy(update={"timing": measured})


def comparison(
    metrics: tuple[str, ...] = ("judge", "distance"),
    *,
    rows: int = 9,
    seeds: tuple[int, ...] = (0, 1),
    timed: bool = True,
) -> Comparison:
    outcomes = tuple(outcome(seed, place, metrics, timed) for seed in seeds for place in range(rows))
    better = {metric: BETTER[metric] for metric in metrics}
    telling, made = rows_of(outcomes, better)
    return Comparison.model_validate(
        {
            "date": "now", "machine": {"cpu": "x", "cores": 2, "memory": 10**9}, "versions": {"torch": "2"},
            "command": "f3core compare s", "spec": "s", "source": "m", "seeds": seeds, "clips": 2, "steps": 4,
            "calibrated": 4, "timed_clips": 2 if timed else None, "higher_is_better": better, "telling": telling,
            "rows": tuple(made), "outcomes": outcomes,
        }
    )  # fmt: skip


def test_tables_tell_figures_apart_with_their_direction_and_interval() -> None:
    found = comparison()
    head, rows = compare_text.quality(found)
    assert head == ["row", "judge: all ↑", "one ↑", "distance ↓", "distance: all ↓", "damage ↓"]
    half = found.rows[2].quality["judge"]["all"]
    assert half.half_width is not None
    low, high = half.mean - half.half_width, half.mean + half.half_width
    assert rows[2][1] == f"{half.mean:.3g} [{low:.3g}, {high:.3g}] ●"
    assert [row[-1] for row in rows[:2]] == ["0", "0.01 [0.01, 0.01]"]
    one_seed = compare_text.quality(comparison(seeds=(0,)))[1]
    assert one_seed[2][1] == f"{found.outcomes[2].quality['judge']['all']:.3g} ●"


def test_costs_leave_out_what_was_not_measured() -> None:
    head, rows = compare_text.cost(comparison())
    assert head == ["row", "MACs ↓", "of unpruned", "predicted", "parameters ↓"]
    assert rows[0] == ["unpruned", "1.00 G", "100.0 %", "–", "1.00 M"]
    assert rows[4][1:] == ["667 M", "66.7 %", "90.0 %", "1.00 M"]
    assert rows[6][3] == "–"
    head, rows = compare_text.time(comparison())
    assert head[1:] == ["denoiser ↓", "speed-up ↑", "end to end ↓", "speed-up ↑"]
    assert rows[0][1:] == ["1.00 s", "1.00×", "1.00 s", "1.00×"]
    assert rows[4][1:] == ["667 ms", "1.50×", "667 ms", "1.50×"]
    untimed = comparison(timed=False)
    assert "denoiser" not in compare_text.to_markdown(untimed).partition("Quality:")[0]
    for found in (untimed, comparison()):
        console = Console(file=io.StringIO(), width=80)
        console.print(compare_text.render(found))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("speed-up" in shown) == (found.timed_clips is not None)
        assert all(name in shown for name in NAMES)


def test_a_note_says_what_the_mark_means() -> None:
    assert "●: on the Pareto front of denoiser seconds and all, distance, by means." in compare_text.notes(comparison())
    assert "●: on the Pareto front of MACs and damage, by means." in compare_text.notes(comparison((), timed=False))
    assert any("one seed, so without" in note for note in compare_text.notes(comparison(seeds=(0,))))
    differ = "Counted and predicted shares differ"
    assert any(note.startswith(differ) for note in compare_text.notes(comparison()))
    alike = [row.model_copy(update={"predicted": row.predicted and row.share}) for row in comparison().rows]
    alike_only = comparison().model_copy(update={"rows": tuple(alike)})
    assert not any(note.startswith(differ) for note in compare_text.notes(alike_only))
    other = comparison().model_copy(update={"calibrated": 3})
    assert any("the 3 calibrated steps" in note for note in compare_text.notes(other))


def test_markdown_holds_one_table_of_everything() -> None:
    found = comparison()
    text = compare_text.to_markdown(found)
    (head,) = [line for line in text.splitlines() if line.startswith("| row | MACs")]
    assert head.count("|") == 1 + 9 + 5
    for part in ("compare.png", "f3core compare s", "x, 2 cores", "torch 2", *NAMES):
        assert part in text
    assert "| PAB | with pab (range: 2) | – |" in text
    assert "| F3 + PAB | f3 (aas) on TA, ratio 0.5, axis layer: self_only; with pab (range: 2) | 2 of 4 |" in text


def test_rows_of_another_model_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    usual = comparison()
    outcomes = [o.model_copy(update={"source": "runs/s"} if o.name == "PAB" else {}) for o in usual.outcomes]
    telling, made = rows_of(outcomes, usual.higher_is_better)
    found = usual.model_copy(update={"outcomes": tuple(outcomes), "rows": tuple(made), "telling": telling})
    assert found.rows[6].what == "runs/s; with pab (range: 2)"
    assert [line["source"] for line in csv.DictReader(io.StringIO(compare_text.to_csv(found)))][5:8] == [
        "m",
        "runs/s",
        "m",
    ]
    note = "Rows of another model generate as m does"
    assert [any(n.startswith(note) for n in compare_text.notes(each)) for each in (found, usual)] == [True, False]
    told: list[list[str]] = []
    legend = Figure.legend
    monkeypatch.setattr(
        Figure,
        "legend",
        lambda self, handles, labels, **how: (told.append(list(labels)), legend(self, handles, labels, **how)),
    )
    for each in (found, usual):
        compare_figure.draw(each, tmp_path / "c.png")
    assert [sorted(labels) for labels in told] == [
        ["Pareto front", "row", "row of another model", "unpruned"], ["Pareto front", "row", "unpruned"]
    ]  # fmt: skip


def test_a_model_as_it_is_counts_as_unpruned_only_if_it_is_the_specs() -> None:
    outcomes = [outcome(0, place, (), timed=place > 1) for place in range(3)]
    bare = {"pruning": None, "accelerators": (), "predicted": None}
    outcomes[1] = outcomes[1].model_copy(update={**bare, "source": "runs/s"})
    _, (unpruned, other, _) = rows_of(outcomes, {})
    assert unpruned.speedup is not None
    assert (other.what, other.speedup) == ("runs/s", None)


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    odd = [r"$\frac$ [bold]a[/red]", r"[/] \alpha $_^", "a|b"]
    rows = [row.model_copy(update={"name": name}) for row, name in zip(comparison(rows=3).rows, odd, strict=True)]
    found = comparison(rows=3).model_copy(update={"rows": tuple(rows)})
    console = Console(file=io.StringIO(), width=200)
    console.print(compare_text.render(found))
    assert all(name in console.file.getvalue() for name in odd)  # type: ignore[attr-defined]
    assert r"a\|b" in compare_text.to_markdown(found)
    compare_figure.draw(found, tmp_path / "c.png")


@settings(deadline=None, max_examples=15)
@given(
    st.sets(st.sampled_from(sorted(BETTER))).map(lambda some: tuple(sorted(some))),
    st.integers(2, 9),
    st.sampled_from([(0,), (0, 1, 2)]),
    st.booleans(),
)
def test_csv_and_json_say_the_same(metrics: tuple[str, ...], rows: int, seeds: tuple[int, ...], timed: bool) -> None:
    found = comparison(metrics, rows=rows, seeds=seeds, timed=timed)
    again = Comparison.model_validate_json(found.model_dump_json())
    assert again == found
    lines = list(csv.DictReader(io.StringIO(compare_text.to_csv(found))))
    assert [line["row"] for line in lines] == list(NAMES[:rows])
    for line, row in zip(lines, again.rows, strict=True):
        assert [float(line[key]) for key in ("macs", "macs_share", "parameters")] == [
            row.macs,
            row.share,
            row.parameters,
        ]
        assert line["denoiser_seconds"] == (str(row.seconds.denoiser) if row.seconds else "")
        for metric, figures in row.quality.items():
            for name, figure in figures.items():
                column = name if metric == name else f"{metric}.{name}"
                assert float(line[column]) == figure.mean
                assert (line[f"{column}_low"] == "") == (figure.half_width is None)
        assert float(line["damage"]) == row.damage.mean
        for metric, on in row.pareto.items():
            assert line[f"pareto.{metric}"] == str(int(on))


# --- the picture ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "timed", "axis", "panels"),
    [
        (("judge", "distance", "likeness"), True, "denoiser seconds a clip", 3),
        ((), False, "MACs of one clip, counted", 1),
    ],
)
def test_names_of_nine_rows_do_not_collide(
    metrics: tuple[str, ...], timed: bool, axis: str, panels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    saved = Figure.savefig

    def save(self: Figure, *args: Any, **options: Any) -> None:
        drawn.append(self)
        saved(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    compare_figure.draw(comparison(metrics, timed=timed), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    shown = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert len(shown) == panels
    for axes in shown:
        assert axes.get_xlabel() == axis
        names = [text for text in axes.texts if text.get_text() in NAMES]
        unplaced = [text.get_text() for text in axes.texts if text.get_text().startswith("no finite")]
        assert len(names) == (8 if axes.get_ylabel().startswith("likeness") else 9)
        assert unplaced == (["no finite figure: unpruned"] if len(names) == 8 else [])
        boxes = [text.get_window_extent() for text in names]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        frame = axes.get_window_extent()
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 + 1 for box in boxes)
        points = axes.transData.transform([line.get_xydata()[0] for line in axes.lines if line.get_marker() in "oD"])
        assert not any(box.contains(x, y) for box in boxes for x, y in points)
