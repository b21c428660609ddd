"""Reports: their files, their warnings, and what the terminal and Markdown show."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from f3core.budget import Budget
from f3core.environment import library_versions, machine, now
from f3core.errors import OutputError
from f3core.evaluate import PairedTiming, Timing
from f3core.footprint import Memory
from f3core.plan import PruningPlan, StepRange, Verdict
from f3core.report import Counts, Macs, MacsChange, PlanSummary, Quality, Report, load, render, save, to_markdown
from f3core.report_text import percent, seconds, si
from f3core.sites import AttentionKind, PruningAxis, Removal

G = 10**9
TA, SA, CA = AttentionKind.TEMPORAL, AttentionKind.SELF, AttentionKind.CROSS


def make_plan(
    axis: PruningAxis = PruningAxis.LAYER, removal: Removal = Removal.SELF_ONLY, pruned: int = 2
) -> PruningPlan:
    sites = [f"transformer.blocks.{i}.attn1" for i in range(4)]
    ranges = (StepRange(low=500), StepRange(high=500)) if axis is not PruningAxis.LAYER else (StepRange(),)
    if axis is PruningAxis.TIMESTEP:
        cells = [(f"steps[{i}]", tuple(sites), (i,)) for i in range(2)]
    else:
        cells = [(site, (site,), (i,)) for i in range(len(ranges)) for site in sites]
    return PruningPlan(
        adapter="tiny",
        method="f3",
        criterion="aas",
        target=TA,
        axis=axis,
        ratio=pruned / len(cells),
        step_ranges=ranges,
        removals=dict.fromkeys(sites, removal),
        units=tuple(
            Verdict(name=name, sites=s, ranges=r, score=0.25 + i, pruned=i < pruned, macs_saved=10**8 * (i + 1))
            for i, (name, s, r) in enumerate(cells)
        ),
        passes={"transformer": {"forward": (20,) * len(ranges)}},
        macs_before=40 * G,
        macs_after=30 * G,
    )


def change(before: int, predicted: int, counted: int | None = None) -> MacsChange:
    return MacsChange(
        before=Macs(total=before, kinds={CA: 10, SA: 20, TA: before // 4}),
        predicted=Macs(total=predicted),
        counted=Macs(total=predicted if counted is None else counted, kinds={CA: 10, SA: 20, TA: before // 8}),
    )


def timing(denoiser: tuple[float, float], whole: tuple[float, float], calls: int = 40) -> PairedTiming:
    def three(pair: tuple[float, float]) -> Timing:
        return Timing.of([pair[0]] * 3, [pair[1]] * 3)

    return PairedTiming(clips=4, steps=20, calls=calls, denoiser=three(denoiser), end_to_end=three(whole))


def make_report(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "date": now(),
        "versions": library_versions(),
        "machine": machine(),
        "command": "f3core apply specs/tiny.yaml --output runs/tiny",
        "spec": "specs/tiny.yaml",
        "source": "zoo:tiny|model",
        "plan": PlanSummary.of(make_plan()),
        "forwards": {"transformer": change(G, 3 * G // 4)},
        "generation": change(40 * G, 30 * G),
        "parameters": Counts(before=3_300_000, after=3_000_000),
        "disk": Counts(before=6_600_000, after=6_000_000),
        "timing": timing((4.0, 3.0), (4.4, 3.4)),
        "memory_before": Memory(added=10**8, peak=10**9, how="resident set"),
        "memory_after": Memory(added=9 * 10**7, peak=10**9, how="resident set"),
        "quality": {
            "text_accuracy": Quality(before={"digit": 0.9, "colour": 1.0}, after={"digit": 0.8, "colour": 1.0})
        },
        "clips": 64,
        "damage": 0.0123,
        "notes": ("One note.",),
        "figure": "attention.png",
        "gif": "before_after.gif",
        "mp4": "before_after.mp4",
    }
    return Report(**{**fields, **changes})


def shown(report: Report, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(report))
    return console.export_text()


# --- files ----------------------------------------------------------------------------------------------------------


def test_saved_report_loads_equal(tmp_path: Path) -> None:
    report = make_report()
    save(report, tmp_path)
    assert load(tmp_path) == report
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_json_carries_warnings_raw_seconds_and_integer_macs(tmp_path: Path) -> None:
    save(make_report(plan=PlanSummary.of(make_plan(removal=Removal.MASK))), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert any("mask" in text for text in data["warnings"])
    assert data["timing"]["denoiser"]["before_runs"] == [4.0, 4.0, 4.0]
    assert data["generation"]["before"] == {"total": 40 * G, "kinds": {"CA": 10, "SA": 20, "TA": 10 * G}}


def test_infinite_and_missing_figures_survive_the_file(tmp_path: Path) -> None:
    report = make_report(quality={"m": Quality(before={"x": math.inf}, after={"x": math.inf})}, timing=None, disk=None)
    save(report, tmp_path)
    assert load(tmp_path) == report


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(OutputError, match=r"not a finished run.*report\.json"):
        load(tmp_path)
    (tmp_path / "report.json").write_text("{ not json")
    with pytest.raises(OutputError, match=r"report\.json: broken"):
        load(tmp_path)
    save(make_report(), tmp_path)
    text = (tmp_path / "report.json").read_text().replace('"clips": 64', '"clips": "many"')
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(OutputError, match="clips"):
        load(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OutputError, match="cannot be read"):
        load(tmp_path)


def test_saving_into_no_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save(make_report(), tmp_path / "nowhere")


def test_reading_reports_imports_nothing_heavy() -> None:
    code = "import sys, f3core.report; print([m for m in ('torch', 'matplotlib', 'imageio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- warnings -------------------------------------------------------------------------------------------------------


def test_a_report_that_holds_what_it_promises_warns_of_nothing() -> None:
    assert make_report().warnings == ()


@pytest.mark.parametrize(("after", "warned"), [(3.0, False), (3.5, False), (3.6, True), (5.0, True)])
def test_shortfall_beyond_fifteen_percent(after: float, warned: bool) -> None:
    # predicted 4/3; measured 4/after, and 85 % of the prediction is reached at 3.53 s
    report = make_report(timing=timing((4.0, after), (4.4, after + 0.4)))
    assert any("MACs predict 1.33×" in w for w in report.warnings) == warned


def test_shortfall_names_the_likely_cause() -> None:
    small = make_report(timing=timing((4.0, 4.0), (4.4, 4.4), calls=40))
    large = make_report(timing=timing((4.0, 4.0), (4.4, 4.4), calls=4))
    assert "fixed costs per operation" in small.warnings[0]
    assert "memory traffic" in large.warnings[0]


def test_end_to_end_gain_far_below_the_denoisers() -> None:
    report = make_report(timing=timing((4.0, 3.0), (16.0, 15.0)))
    (warning,) = report.warnings
    assert "75 % of its time" in warning
    assert "text encoder, VAE" in warning


@pytest.mark.parametrize(
    ("budget", "warned"),
    [
        (Budget(milliseconds=2900.0), False),  # within what timings vary by
        (Budget(milliseconds=2800.0), True),
        (Budget(speedup=1.38), False),
        (Budget(speedup=1.42), True),
    ],
)
def test_a_budget_of_time_that_does_not_hold_to_the_end(budget: Budget, warned: bool) -> None:
    plan = PlanSummary.of(make_plan().model_copy(update={"budget": budget}))
    told = make_report(plan=plan, timing=timing((4.0, 3.0), (4.4, 3.4))).warnings
    assert [("timings vary" in one, "3000 ms in the end" in one or "1.33× in the end" in one) for one in told] == [
        (True, True)
    ] * warned


@pytest.mark.parametrize("axis", [PruningAxis.TIMESTEP, PruningAxis.CELL])
def test_step_dependent_plans_keep_weights(axis: PruningAxis) -> None:
    (warning,) = make_report(plan=PlanSummary.of(make_plan(axis, pruned=1))).warnings
    assert "keep their weights" in warning
    every = make_plan(axis, pruned=len(make_plan(axis).units))
    assert make_report(plan=PlanSummary.of(every)).warnings == ()


def test_masks_are_called_an_ablation() -> None:
    (warning,) = make_report(plan=PlanSummary.of(make_plan(removal=Removal.MASK))).warnings
    assert "2 sites are pruned by a mask" in warning


def test_counted_other_than_predicted() -> None:
    report = make_report(generation=change(40 * G, 30 * G, 30 * G + 7))
    (warning,) = report.warnings
    assert "(+7)" in warning
    report = make_report(forwards={"transformer": change(G, G // 2, G // 2 - 1)})
    assert "One transformer forward" in report.warnings[0]


@pytest.mark.parametrize("name", ["frechet_video", "fréchet", "FVD", "fid"])
def test_few_clips_for_a_frechet_distance(name: str) -> None:
    quality = {name: Quality(before={"distance": 10.0}, after={"distance": 11.0}, higher_is_better=False)}
    assert any("64 clips" in w for w in make_report(quality=quality).warnings)
    assert make_report(quality=quality, clips=2048).warnings == ()


def test_nothing_pruned_is_said() -> None:
    plan = PlanSummary.of(make_plan(pruned=0))
    report = make_report(plan=plan, generation=change(G, G), timing=None)
    assert "Nothing was pruned" in report.warnings[0]
    assert "nothing removed" in to_markdown(report)


# --- text -----------------------------------------------------------------------------------------------------------


def test_markdown_holds_pictures_units_and_command() -> None:
    text = to_markdown(make_report())
    assert "](attention.png)" in text
    assert "](before_after.gif)" in text
    assert "](before_after.mp4)" in text
    assert "| transformer.blocks.1.attn1 | 1.25 | **TA pruned** | 200,000,000 |" in text
    assert "| transformer.blocks.2.attn1 | 2.25 | kept | 300,000,000 |" in text
    assert "```\nf3core apply specs/tiny.yaml --output runs/tiny\n```" in text
    assert "zoo:tiny\\|model" in text
    assert "- One note." in text


def test_markdown_folds_many_units_and_explains_step_ranges() -> None:
    plan = PlanSummary.of(make_plan(PruningAxis.TIMESTEP, pruned=1))
    many = plan.model_copy(update={"units": plan.units * 30})
    text = to_markdown(make_report(plan=many))
    assert "<details><summary>All 60 units" in text
    assert "steps[0] = t ∞–500" in text
    assert "> **Note.** On the timestep axis" in text


def test_markdown_tables_are_rectangular() -> None:
    for block in to_markdown(make_report()).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in lines}) <= 1


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_shows_before_after_change_and_units(width: int) -> None:
    text = shown(make_report(), width)
    assert max(map(len, text.splitlines())) <= width
    lines = {line.strip().split("  ")[0]: line for line in text.splitlines() if line.strip()}
    for label, words in {
        "One clip, all steps": ("40.0 GMAC", "30.0 GMAC", "−25.0 %"),
        "Parameters": ("3.30 M", "3.00 M", "−9.1 %"),
        "Weights, in this dtype": ("6.60 MB", "6.00 MB"),
        "Denoiser": ("4.00 s", "3.00 s", "−25.0 %"),
        "speed-up": ("1.29×",),
        "text_accuracy: digit ↑": ("0.9", "0.8", "−11.1 %"),
    }.items():
        assert all(word in lines[label] for word in words), lines[label]
    assert "1.33×" in text


def test_terminal_text_takes_names_literally() -> None:
    quality = {"odd [bold]": Quality(before={"x": 1.0}, after={"x": 0.5})}
    assert "odd [bold]: x" in shown(make_report(quality=quality), 100)


def test_a_bare_report_renders() -> None:
    bare = {"timing": None, "disk": None, "memory_before": None, "quality": {}, "damage": None, "gif": None}
    report = make_report(**bare, figure=None, mp4=None, notes=())
    assert "Peak memory" not in shown(report)
    assert "![" not in to_markdown(report)


def test_numbers_read_well() -> None:
    assert [si(n) for n in (0, 640, 999_600, 12_345_678, 9.484e15)] == ["0.00 ", "640 ", "1.00 M", "12.3 M", "9.48 P"]
    assert [seconds(n) for n in (0.0123, 1.5, 75.0, 1200.0)] == ["12.3 ms", "1.50 s", "75.0 s", "20.0 min"]
    assert [percent(4, 3), percent(3, 3), percent(0, 3), percent(2, 3)] == ["−25.0 %", "0 %", "–", "+50.0 %"]


def test_environment_is_described() -> None:
    here = machine()
    assert here.cpu
    assert here.cores >= 1
    assert here.memory > 10**8
    assert {"python", "f3core", "pydantic"} <= library_versions().keys()
    assert now().endswith("+00:00")
