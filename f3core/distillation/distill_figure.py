"""The picture of a training: every loss over the steps, as it was and smoothed.

matplotlib is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from f3core.clips import INK
from f3core.figures import tidy_
from f3core.impact import Array
from f3core.study_curves import PALETTE

Curve = Sequence[tuple[int, float]]
"""(step, value), by step"""
WINDOW = 50
"""A smoothed curve is a running mean over one in so many of its steps."""
WIDE = 30
"""A curve whose largest value is this many times its smallest is drawn on a logarithmic axis."""


def smoothed(values: Sequence[float]) -> Array:
    """The running mean of [N] values over a window of N / `WINDOW` of them, centred, narrower towards the ends, so that
    the first and last points are values of their own."""
    array = np.asarray(values, dtype=np.float64)
    places, half = np.arange(len(array)), max(1, len(array) // WINDOW) // 2
    reach = np.minimum(half, np.minimum(places, len(array) - 1 - places))
    sums = np.concatenate([[0.0], np.cumsum(array)])
    means: Array = (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
    return means


def draw(curves: Mapping[str, Curve], title: str, path: Path) -> None:
    """One panel a curve: faint as it was, and smoothed. ``path`` names the PNG. Raises `ValueError` for no curve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not curves:
        raise ValueError("no curve to draw")
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(0.6 + 3.6 * columns, 0.9 + 2.4 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(curves):
            axes.set_visible(False)
            continue
        name = list(curves)[place]
        steps, values = zip(*curves[name], strict=True)
        colour = PALETTE[place % len(PALETTE)]
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3, zorder=2)
        axes.plot(steps, smoothed(values), color=colour, linewidth=1.6, zorder=3)
        axes.set_title(name, color=INK, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_yscale("log")
        axes.margins(x=0.02, y=0.1)
        tidy_(axes)
        if place + columns >= len(curves):
            axes.set_xlabel("step", color=INK, fontsize=9)
    figure.suptitle(title, color=INK, fontsize=11)
    figure.savefig(path, metadata={"Software": "f3core"})
