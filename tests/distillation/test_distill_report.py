"""What a distillation tells: losses as they began and ended, tables for people, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from f3core.distillation import distill_figure, distill_text
from f3core.distillation.distill_report import Distillation, LossTold, Training, Variant, averaged, ends
from f3core.environment import Machine
from f3core.evaluate import PairedTiming, Timing
from f3core.report import PlanSummary
from f3core.sites import PruningAxis, Removal, Structure

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


def report(**changes: Any) -> Distillation:
    training = Training(
        data="zoo:digits",
        clips=64,
        losses=(
            LossTold(name="task", weight=1.0, first=0.5, last=0.25),
            LossTold(name="icd", weight=0.1, options={"blocks": None, "normalised": True}, first=2.0, last=1.0),
            LossTold(name="total", first=0.7, last=0.35),
        ),
        over=20,
        steps=200,
        batch_size=8,
        seen=1600,
        seconds=125.0,
        processes=2,
        precision="bf16",
        dtype="float32",
        device="cpu",
        ema=0.99,
        learning_rate=1e-4,
        matched=6,
    )
    plan = PlanSummary(
        adapter="wan",
        method="f3",
        criterion="aas",
        axis=PruningAxis.LAYER,
        target=Structure.BLOCK,
        ratio=0.25,
        sites={Removal.DROP: 2},
        gated=False,
        graphs={},
        step_ranges=("all steps",),
        units=(),
    )
    seconds = Timing(before=2.0, after=1.0, speedup=2.0, before_runs=(2.0,) * 3, after_runs=(1.0,) * 3)
    given = {
        "date": "2026-01-02T03:04:05+00:00",
        "machine": Machine(cpu="a|b", cores=2, memory=2**33),
        "versions": {"python": "3.11"},
        "command": "f3core distill spec.yaml",
        "spec": "spec.yaml",
        "source": "a|model",
        "seeds": (0,),
        "plan": plan,
        "training": training,
        "teacher": Variant(parameters=2_000_000, macs=10**9, quality={"fvd": {"fvd": 10.0}}),
        "untrained": Variant(
            parameters=1_500_000, macs=75 * 10**7, quality={"fvd": {"fvd": 50.0}, "psnr": {"psnr": 1.0}}, damage=0.2
        ),
        "trained": Variant(
            parameters=1_500_000, macs=75 * 10**7, quality={"fvd": {"fvd": 20.0}, "psnr": {"psnr": 2.0}}, damage=0.1
        ),
        "higher_is_better": {"fvd": False, "psnr": True},
        "clips": 16,
        "generation_steps": 20,
        "timing": PairedTiming(clips=1, steps=20, calls=40, denoiser=seconds, end_to_end=seconds),
        "samples": ("samples/step-000100/00000.mp4",),
    }
    return Distillation(**(given | changes))


def shown(found: Distillation) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(distill_text.render(found))
    return capture.get()


@given(VALUES)
def test_first_and_last_are_means_of_a_tenth(values: list[float]) -> None:
    first, last = ends(values)
    over = averaged(len(values))
    assert over == max(1, len(values) // 10)
    assert first == pytest.approx(np.mean(values[:over]), abs=1e-6)
    assert (last, first) == pytest.approx(ends(values[::-1]), abs=1e-6)


def test_no_step_has_no_first_loss() -> None:
    with pytest.raises(ValueError, match="no step"):
        ends([])


@given(VALUES)
def test_smoothing_stays_within_the_values_and_keeps_the_ends(values: list[float]) -> None:
    smooth = distill_figure.smoothed(values)
    assert len(smooth) == len(values)
    assert (smooth[0], smooth[-1]) == pytest.approx((values[0], values[-1]), abs=1e-6)
    assert min(values) - 1e-6 <= smooth.min() <= smooth.max() <= max(values) + 1e-6


@given(st.floats(-10, 10), st.floats(-1, 1), st.integers(100, 300))
def test_smoothing_leaves_a_line_alone_and_flattens_noise(start: float, slope: float, count: int) -> None:
    line = start + slope * np.arange(count)
    assert distill_figure.smoothed(list(line)) == pytest.approx(line, abs=1e-6)
    zigzag = [1.0, -1.0] * 200
    assert np.abs(distill_figure.smoothed(zigzag)[10:-10]).max() < 0.2


def test_models_stand_beside_one_another() -> None:
    head, rows = distill_text.models(report())
    assert [row[0] for row in rows] == ["teacher", "student, untrained", "student, trained"]
    assert [row[head.index("parameters ↓")] for row in rows] == ["2.00 M", "1.50 M", "1.50 M"]
    assert [row[-1] for row in rows] == ["100.0 %", "75.0 %", "75.0 %"]


def test_quality_tells_what_training_gave_and_leaves_out_what_says_nothing() -> None:
    assert distill_text.quality(report())[1] == [
        ["fvd ↓", "10", "50", "20", "−60.0 %"],
        ["psnr ↑", "–", "1", "2", "+100.0 %"],
        ["damage ↓", "–", "0.2", "0.1", "−50.0 %"],
    ]
    assert distill_text.time(report())[1][0] == ["denoiser", "2.00 s", "1.00 s", "2.00×"]


def test_losses_tell_their_weight_and_options() -> None:
    assert distill_text.losses(report())[1] == [
        ["task", "1", "0.5", "0.25", "−50.0 %", ""],
        ["icd", "0.1", "2", "1", "−50.0 %", "normalised: True"],
        ["total", "–", "0.7", "0.35", "−50.0 %", ""],
    ]
    assert "trained by task + icd for 200 steps" in distill_text.headline(report())


def test_markdown_and_terminal_tell_the_same() -> None:
    found = report()
    markdown, terminal = distill_text.to_markdown(found), shown(found)
    for told in (
        "denoiser",
        "fvd ↓",
        "−60.0 %",
        "75.0 %",
        "2.00×",
        "normalised: True",
        "1,600 clips seen",
        "2 processes",
    ):
        assert told in markdown
        assert told in terminal
    assert "a\\|b" in markdown, "what would end a cell is escaped"
    assert "](samples/step-000100/00000.mp4)" in markdown
    assert "f3core distill spec.yaml" in markdown


def test_what_was_not_measured_has_no_table() -> None:
    bare = Variant(parameters=3, macs=5)
    found = report(teacher=bare, untrained=bare, trained=bare, higher_is_better={}, clips=0, timing=None, samples=())
    markdown = distill_text.to_markdown(found)
    assert not any(f"## {title}" in markdown for title in ("Time", "Quality", "Samples"))
    assert "## Size and work" in markdown
    assert "Quality" not in shown(found)


@given(st.floats(0), st.floats(0) | st.just(float("inf")))
def test_a_report_is_read_as_it_was_written(loss: float, figure: float) -> None:
    """Figures such as a PSNR may be infinite."""
    variant = Variant(parameters=1, macs=2, quality={"fvd": {"fvd": figure}}, damage=loss)
    found = report(untrained=variant, timing=None)
    assert Distillation.model_validate_json(found.model_dump_json()) == found


def test_every_curve_has_a_panel(tmp_path: Path) -> None:
    from PIL import Image

    count = 4
    curves = {f"loss {i}": [(step, 1000.0 / step**2 - i) for step in range(1, 60)] for i in range(count)}
    distill_figure.draw(curves, "a title", tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours = {tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in distill_figure.PALETTE[:count]}
    assert colours <= set(map(tuple, np.unique(pixels, axis=0).tolist()))


def test_no_curve_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curve"):
        distill_figure.draw({}, "a title", tmp_path / "losses.png")
