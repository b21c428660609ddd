"""The picture of a sweep: quality against multiply-adds and against seconds, one line a kind of attention.

matplotlib is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from f3core.clips import INK
from f3core.figures import COLOURS, NAMES, tidy_
from f3core.report_text import plural
from f3core.stats import spread_over

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from f3core.stats import Figure
    from f3core.sweep_rows import Row, Sweep

WIDE = 30
"""A figure whose largest value is this many times its smallest is drawn on a logarithmic axis."""
MARKERS = ("o", "s", "^")


@dataclass(frozen=True)
class _Measure:
    """What stands on an axis: its title, and where a row has it."""

    title: str
    of: Callable[[Row], Figure]


def draw(sweep: Sweep, path: Path) -> None:
    """Draw one row of panels a metric (its figure that moves most) and one for damage; seconds only where timed.

    Points are means over seeds, bars their standard deviations, labels the ratios. ``path`` names the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns: list[tuple[str, str, Callable[[Row], float | None]]] = [
        ("MACs of one clip, counted", "", lambda row: row.macs_counted)
    ]
    if any(row.seconds for row in sweep.rows):
        columns.append(("denoiser seconds a clip", "s", lambda row: row.seconds.denoiser if row.seconds else None))
    measures = _measures(sweep)
    figure = Canvas(figsize=(0.6 + 4.9 * len(columns), 0.9 + 2.7 * len(measures)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(measures), len(columns), squeeze=False, sharex="col", sharey="row")
    for measure, line in zip(measures, grid, strict=True):
        for (_, _, where), axes in zip(columns, line, strict=True):
            _panel(axes, sweep, where, measure)
        line[0].set_ylabel(measure.title, color=INK, fontsize=9)
    for (title, unit, _), axes in zip(columns, grid[-1], strict=True):
        _ticks(axes, unit)
        axes.set_xlabel(title, color=INK, fontsize=9)
    handles = grid[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]), frameon=False, fontsize=9)
    figure.suptitle(_title(sweep), color=INK, fontsize=11)
    figure.savefig(path, metadata={"Software": "f3core"})


def _title(sweep: Sweep) -> str:
    clips = plural(sweep.clips, "clip")
    return f"Quality against cost, by share of units pruned (axis {sweep.axis}); {clips}, {spread_over(sweep.seeds)}"


def _measures(sweep: Sweep) -> list[_Measure]:
    """The figure of every metric that moves most over the sweep, and damage."""
    found = []
    for metric, figures in sweep.rows[0].quality.items():

        def moved(name: str, metric: str = metric) -> float:
            means = [row.quality[metric][name].mean for row in sweep.rows]
            return max(means) - min(means)

        name = max(figures, key=moved)
        title = metric if name == metric else f"{metric}: {name}"
        better = "higher" if sweep.higher_is_better[metric] else "lower"

        def of(row: Row, metric: str = metric, name: str = name) -> Figure:
            return row.quality[metric][name]

        found.append(_Measure(f"{title}\n({better} is better)", of))
    return [*found, _Measure("damage: mean squared error\n(lower is better)", lambda row: row.damage)]


def _panel(axes: Axes, sweep: Sweep, where: Callable[[Row], float | None], measure: _Measure) -> None:
    from matplotlib.patheffects import withStroke

    unpruned, *others = sweep.rows
    start, at = where(unpruned), measure.of(unpruned)
    targets = list(dict.fromkeys(row.target for row in others if row.target))
    values = [measure.of(row).mean for row in sweep.rows]
    places = [x for row in sweep.rows if (x := where(row)) is not None]
    near = (0.04 * (max(places) - min(places)), 0.06 * (max(values) - min(values)))  # a label's width and height
    for slot, target in enumerate(targets):
        mine = sorted((row for row in others if row.target is target), key=lambda row: row.ratio)
        points = [(x, measure.of(row), row.ratio) for row in mine if (x := where(row)) is not None]
        line = ([start] if start is not None else []) + [x for x, _, _ in points]
        means = ([at.mean] if start is not None else []) + [figure.mean for _, figure, _ in points]
        spread = ([at.sd] if start is not None else []) + [figure.sd for _, figure, _ in points]
        axes.errorbar(
            line,
            means,
            yerr=spread if len(sweep.seeds) > 1 else None,
            color=COLOURS[target],
            marker=MARKERS[slot % len(MARKERS)],
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            capsize=2.5,
            label=NAMES[target],
            zorder=3,
        )
        for (x, y), ratios in _merged([(x, figure.mean, ratio) for x, figure, ratio in points], near).items():
            axes.annotate(
                ", ".join(f"{ratio:g}" for ratio in ratios),
                (x, y),
                xytext=(6, 6 if slot % 2 == 0 else -11),
                textcoords="offset points",
                fontsize=8,
                color=COLOURS[target],
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=5,
            )
    if start is not None:
        axes.plot([start], [at.mean], marker="D", color=INK, markersize=6, linestyle="", label="unpruned", zorder=4)
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    axes.margins(x=0.1, y=0.14)
    tidy_(axes)


def _merged(
    points: list[tuple[float, float, float]], near: tuple[float, float]
) -> dict[tuple[float, float], list[float]]:
    """Ratios by place (x, y), together where a point is so near an earlier one that their labels would collide."""
    found: dict[tuple[float, float], list[float]] = {}
    for x, y, ratio in points:
        taken = [(u, v) for u, v in found if abs(x - u) <= near[0] and abs(y - v) <= near[1]]
        found.setdefault(taken[0] if taken else (x, y), []).append(ratio)
    return found


def _ticks(axes: Axes, unit: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter(unit=unit))
