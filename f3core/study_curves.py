"""The picture of a rank study: damage and every metric against the MACs saved, a column an axis, a line a criterion.

matplotlib is imported where it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from f3core.clips import INK
from f3core.figures import tidy_
from f3core.report_text import plural
from f3core.stats import Figure, spread_over
from f3core.study_rows import CEILING, AxisRanking, RankStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#4477AA", "#CC6677", "#228833", "#CCBB44", "#AA3377", "#66CCEE", "#EE7733", "#999933")
"""Told apart by the colour-blind, too (after P. Tol)."""


def draw(study: RankStudy, path: Path) -> None:
    """Write the picture as PNG. Points are means over seeds, bars their standard deviations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    measures = [None, *_moving(study)]
    size = (1 + 4.2 * len(study.axes), 1 + 2.7 * len(measures))
    figure = Canvas(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(measures), len(study.axes), squeeze=False, sharex=True, sharey="row")
    criteria = list(dict.fromkeys(name for ranking in study.axes for name in ranking.criteria))
    for measure, row in zip(measures, grid, strict=True):
        for ranking, axes in zip(study.axes, row, strict=True):
            for name in ranking.criteria:
                colour = INK if name == CEILING else PALETTE[criteria.index(name) % len(PALETTE)]
                _line(axes, study, ranking, name, measure, colour)
            axes.margins(x=0.06, y=0.1)
            tidy_(axes)
        row[0].set_ylabel(measure or "damage (mean squared error)", color=INK, fontsize=9)
    for ranking, axes in zip(study.axes, grid[0], strict=True):
        axes.set_title(f"axis {ranking.axis} ({plural(len(ranking.alone[0]), 'unit')})", color=INK, fontsize=10)
        axes.set_yscale("log")
    for axes in grid[-1]:
        axes.set_xlabel("MACs saved, % of the denoiser's", color=INK, fontsize=9)
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    title = f"What each criterion prunes: {study.source}, {plural(study.clips, 'clip')}, {spread_over(study.seeds)}"
    figure.suptitle(title, color=INK, fontsize=11)
    figure.savefig(path, metadata={"Software": "f3core"})


def _moving(study: RankStudy) -> list[str]:
    """Of every metric, the figure that moves most."""
    found: dict[str, tuple[float, str]] = {}
    for name in study.unpruned[0]:
        values = [c.quality[name] for ranking in study.axes for c in ranking.choices]
        metric, moved = name.partition(".")[0], max(values) - min(values)
        if metric not in found or moved > found[metric][0]:
            found[metric] = (moved, name)
    return [name for _, name in found.values()]


def _line(axes: Axes, study: RankStudy, ranking: AxisRanking, criterion: str, measure: str | None, colour: str) -> None:
    points = [] if measure is None else [(0.0, Figure.of(unpruned[measure] for unpruned in study.unpruned))]
    for share in study.shares:
        mine = ranking.chosen(criterion, share)
        figure = Figure.of(c.damage if measure is None else c.quality[measure] for c in mine)
        points.append((100 * Figure.of(c.saved for c in mine).mean, figure))
    points.sort(key=lambda point: point[0])
    axes.errorbar(
        [x for x, _ in points],
        [figure.mean for _, figure in points],
        yerr=[figure.sd for _, figure in points] if len(study.seeds) > 1 else None,
        color=colour,
        linestyle="--" if criterion == CEILING else "-",
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.8,
        capsize=2,
        label=criterion,
    )
