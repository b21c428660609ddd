"""The picture of a comparison: quality against seconds, a point a row, with the Pareto front.

matplotlib is imported where it is used.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from f3core.clips import INK
from f3core.compare_rows import DAMAGE
from f3core.figures import tidy_
from f3core.report_text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    from f3core.compare_rows import Comparison, Row

POINT, FRONT, OTHER = "#004488", "#BB5566", "#997700"
LOGARITHMIC = 12
"""Where the slowest row takes this many times the fastest one's seconds, their axis is logarithmic."""
NEAR = 15
"""Names farther from their point than this, in points, get a line to it."""
UNCLEAR = 1.5
"""So does one that has another point no farther than this many times its own's distance."""
_AROUND = [
    (distance * math.cos(math.radians(angle)), distance * math.sin(math.radians(angle)))
    for distance, angle in itertools.product((11, 22, 36, 52), (30, -30, 150, -150, 90, -90, 0, 180))
]
"""where a label may stand, in points from what it labels, the best place first"""


def draw(found: Comparison, path: Path) -> None:
    """Draw one panel a metric (its telling figure), or one of the damage where no metric was measured.

    Points are means over seeds, bars their 95 % intervals; the Pareto front is a stepped line through ringed points.
    The seconds are the denoiser's, of one clip; counted MACs where nothing was timed. ``path`` names the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = list(found.telling.items())
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Canvas(figsize=(0.6 + 5.6 * columns, 1.0 + 3.7 * lines), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for (metric, name), axes in zip(panels, grid, strict=False):
        _panel(axes, found, metric, name)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles = dict(zip(*reversed(grid[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(_title(found), color=INK, fontsize=11)
    canvas.draw()  # type: ignore[no-untyped-call]  # labels are placed where everything else has its final place
    figure.set_layout_engine("none")
    for (metric, name), axes in zip(panels, grid, strict=False):
        _label(axes, canvas, found, metric, name)
    figure.savefig(path, metadata={"Software": "f3core"})


def _title(found: Comparison) -> str:
    over = f"mean and 95 % interval over {len(found.seeds)} seeds" if len(found.seeds) > 1 else "one seed"
    return f"Quality against {'seconds' if found.timed_clips else 'MACs'}; {plural(found.clips, 'clip')}, {over}"


def _cost(row: Row) -> float:
    return row.seconds.denoiser if row.seconds else row.macs


def _shown(found: Comparison, metric: str, name: str) -> list[tuple[Row, float, float]]:
    """Rows with their place, as far as they have one."""
    placed = [(row, _cost(row), row.figure(metric, name).mean) for row in found.rows]
    return [(row, x, y) for row, x, y in placed if math.isfinite(x) and math.isfinite(y)]


def _panel(axes: Axes, found: Comparison, metric: str, name: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    shown = _shown(found, metric, name)
    for row, x, y in shown:
        label, color, marker = (
            ("unpruned", INK, "D")
            if row is found.rows[0]
            else ("row of another model", OTHER, "s")
            if row.source
            else ("row", POINT, "o")
        )
        axes.errorbar(
            [x],
            [y],
            yerr=[[row.figure(metric, name).half_width or 0.0]] * 2,
            color=color,
            marker=marker,
            markersize=6,
            elinewidth=0.9,
            capsize=2.5,
            linestyle="",
            label=label,
            zorder=3,
        )
    front = sorted((x, y) for row, x, y in shown if row.pareto[metric])
    if front:
        xs, ys = zip(*front, strict=True)
        axes.plot(xs, ys, "--", drawstyle="steps-post", linewidth=1.1, color=FRONT, label="Pareto front", zorder=2)
        axes.plot(xs, ys, linestyle="", marker="o", markersize=11, fillstyle="none", color=FRONT, zorder=2)
    placed = [row for row, _, _ in shown]
    missing = [row.name for row in found.rows if row not in placed and metric in (DAMAGE, *row.quality)]
    if missing:
        text = f"no finite figure: {', '.join(missing)}"
        corner = axes.text(0.99, 0.01, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color=INK)
        corner.set_parse_math(False)
    costs = [x for _, x, _ in shown]
    timed = found.timed_clips is not None
    if costs and min(costs) > 0 and max(costs) > LOGARITHMIC * min(costs):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter(unit="s" if timed else ""))
    axes.set_xlabel("denoiser seconds a clip" if timed else "MACs of one clip, counted", color=INK, fontsize=9)
    better = "higher" if found.higher_is_better.get(metric, False) else "lower"
    title = "damage: mean squared error" if metric == DAMAGE else metric if metric == name else f"{metric}: {name}"
    axes.set_ylabel(f"{title}\n({better} is better)", color=INK, fontsize=9)
    axes.margins(x=0.14, y=0.16)
    tidy_(axes)


def _label(axes: Axes, canvas: FigureCanvasAgg, found: Comparison, metric: str, name: str) -> None:
    """Name every point where the name hides the least: no point, bar or other name, and nothing outside the panel.

    A line leads to the point from a name that stands apart from it, or as near to another."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    shown, renderer = _shown(found, metric, name), canvas.get_renderer()  # type: ignore[no-untyped-call]
    inside, taken = axes.get_window_extent(renderer), list[Bbox]()
    scale = axes.figure.dpi / 72
    points = [tuple(axes.transData.transform((x, y))) for _, x, y in shown]
    for row, x, y in shown:
        half = row.figure(metric, name).half_width or 0.0
        (left, low), (_, high) = axes.transData.transform([(x, y - half), (x, y + half)])
        middle = axes.transData.transform((x, y))[1]
        taken += [Bbox.from_extents(left - 3, low, left + 3, high)]
        taken += [Bbox.from_extents(left - 8, middle - 8, left + 8, middle + 8)]
    for row, x, y in sorted(shown, key=lambda one: one[1]):
        text = axes.annotate(
            row.name,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
            parse_math=False,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )
        size = text.get_window_extent(renderer)
        mine = tuple(axes.transData.transform((x, y)))
        boxes = [_box(mine, offset, size, scale) for offset in _AROUND]
        best = min(range(len(boxes)), key=lambda i: (_hidden(boxes[i], taken, inside), i))
        dx, dy = _AROUND[best]
        text.set_horizontalalignment("left" if dx > 1 else "right" if dx < -1 else "center")
        text.xyann = (dx, dy)
        others = [_apart(boxes[best], point) for point in points if point != mine]
        if math.hypot(dx, dy) > NEAR or min(others, default=math.inf) < UNCLEAR * _apart(boxes[best], mine):
            line = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 5}
            axes.annotate("", (x, y), xytext=(dx, dy), textcoords="offset points", arrowprops=line, zorder=2)
        taken.append(boxes[best].padded(3))


def _box(at: tuple[float, ...], offset: tuple[float, float], size: Bbox, scale: float) -> Bbox:
    """Where a text of ``size`` lies, in pixels, that stands ``offset`` points from ``at``."""
    from matplotlib.transforms import Bbox

    x, y = at[0] + offset[0] * scale, at[1] + offset[1] * scale - size.height / 2
    x -= 0 if offset[0] > 1 else size.width if offset[0] < -1 else size.width / 2
    return Bbox.from_bounds(x, y, size.width, size.height)


def _apart(box: Bbox, point: tuple[float, ...]) -> float:
    """Pixels between a box and a point."""
    (x, y) = point
    return math.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))


def _hidden(box: Bbox, taken: list[Bbox], inside: Bbox) -> float:
    """Pixels² of a box that lie on what is taken, or outside."""

    def common(other: Bbox) -> float:
        width = min(box.x1, other.x1) - max(box.x0, other.x0)
        height = min(box.y1, other.y1) - max(box.y0, other.y0)
        return float(max(0.0, width) * max(0.0, height))

    return sum(map(common, taken)) + 2 * (box.width * box.height - common(inside))
