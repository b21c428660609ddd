"""The picture of a sweep: its panels, its lines, and figures that span decades."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest

from f3core import curves
from f3core.environment import Machine
from f3core.evaluate import PairedTiming, Timing
from f3core.figures import COLOURS
from f3core.sites import KINDS, AttentionKind
from f3core.sweep_rows import Outcome, Sweep, rows_of


def outcome(seed: int, target: AttentionKind | None, ratio: float, timed: bool, worst: float) -> Outcome:
    slower = Timing.of([1.0, 1.1], [1.0 - ratio / 4, 1.1 - ratio / 4])
    place = KINDS.index(target) if target else 0  # apart, so that no line hides another
    left = round(1e9 * (1 - (0.3 + 0.1 * place) * ratio))
    return Outcome(
        seed=seed,
        target=target,
        ratio=ratio,
        macs_before=10**9,
        macs_predicted=left,
        macs_counted=left,
        parameters=10,
        damage=ratio * (1 + 0.1 * seed) * (1 + place),
        quality={"judge": {"steady": 1.0, "all": 1 - ratio / (1 + place)}, "distance": {"distance": 1 + worst * ratio}},
        timing=PairedTiming(clips=1, steps=4, calls=8, denoiser=slower, end_to_end=slower)
        if timed and target and not seed
        else None,
    )


def made(timed: bool = True, seeds: int = 2, worst: float = 2.0) -> Sweep:
    variants: list[tuple[Any, float]] = [(None, 0.0), *((kind, ratio) for kind in KINDS for ratio in (0.5, 1.0))]
    outcomes = [outcome(seed, target, ratio, timed, worst) for seed in range(seeds) for target, ratio in variants]
    return Sweep(
        date="2026-01-01",
        machine=Machine(cpu="x", cores=1, memory=1),
        versions={},
        command="f3core sweep s.yaml",
        spec="s.yaml",
        source="m",
        method="f3",
        criterion="aas",
        axis="layer",
        removal=None,
        seeds=tuple(range(seeds)),
        clips=4,
        steps=4,
        timed_clips=1 if timed else None,
        higher_is_better={"judge": True, "distance": False},
        rows=tuple(rows_of(outcomes)),
        outcomes=tuple(outcomes),
    )


def pixels(path: Path, colour: str) -> int:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((iio.imread(path)[..., :3] == rgb).all(axis=-1).sum())


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_line_a_kind_in_a_panel_a_metric_and_cost(tmp_path: Path, seeds: int) -> None:
    curves.draw(made(seeds=seeds), tmp_path / "both.png")
    curves.draw(made(timed=False, seeds=seeds), tmp_path / "macs.png")
    both, macs = (iio.imread(tmp_path / name).shape for name in ("both.png", "macs.png"))
    assert both[0] == macs[0]
    assert both[1] > 1.7 * macs[1]
    for kind in KINDS:
        assert pixels(tmp_path / "both.png", COLOURS[kind]) > 1.5 * pixels(tmp_path / "macs.png", COLOURS[kind]) > 300


def test_the_figure_that_moves_stands_for_its_metric() -> None:
    judge, distance, damage = curves._measures(made())
    assert judge.title == "judge: all\n(higher is better)"
    assert distance.title == "distance\n(lower is better)"
    assert damage.of(made().rows[-1]).mean == pytest.approx(3.15)


def test_decades_are_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    for worst, scale in ((2.0, "linear"), (100.0, "log")):
        found = made(worst=worst)
        axes = Figure().subplots()
        curves._panel(axes, found, lambda row: row.macs_counted, curves._measures(found)[1])
        assert axes.get_yscale() == scale


def test_labels_that_would_collide_are_one() -> None:
    points = [(1.0, 1.0, 0.25), (1.001, 1.0, 0.5), (2.0, 1.0, 0.75)]
    assert curves._merged(points, (0.02, 0.02)) == {(1.0, 1.0): [0.25, 0.5], (2.0, 1.0): [0.75]}
