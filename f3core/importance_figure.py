"""The picture of importance: how much worse every figure gets without each place, over depth, and what that saves.

As VDMini's Figure 1 (arXiv 2411.18375). matplotlib is imported where it is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from f3core.block import Stage
from f3core.clips import INK
from f3core.compare_rows import DAMAGE
from f3core.figures import COLOURS, tidy_
from f3core.importance_rows import metric_of
from f3core.report_text import plural
from f3core.stats import spread_over

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from f3core.importance_rows import Importance, MeasuredPlace

SAVED = {"MACs": "#004488", "parameters": "#DDAA33", "seconds": "#BB5566"}
"""Told apart by people with any colour vision, and in grey by lightness."""
SHADE = "#F2F2F2"
LONG = 4
"""Names of places longer than this stand upright."""


def draw(found: Importance, path: Path) -> None:
    """Draw a panel a metric (its figure that moves most), one of the damage, and one of what each place saves.

    Bars are means over seeds, with their standard deviations; places stand in the order in which they run, those of a
    U-Net under the stage in which they lie. ``path`` names the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    telling, places = found.telling, _in_order(found)
    width = min(22.0, max(6.4, 1.6 + 0.34 * len(places)))
    figure = Canvas(figsize=(width, 1.5 + 1.9 * (1 + len(telling))), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    *panels, last = figure.subplots(1 + len(telling), 1, sharex=True)
    for name, axes in zip(telling, panels, strict=True):
        _importance(axes, found, places, name)
    _saved(last, found, places)
    for axes in (*panels, last):
        _stages(axes, places, named=axes is panels[0])
        tidy_(axes)
        axes.grid(visible=False, axis="x")
    labels = _labels(places)
    upright = max(map(len, labels)) > LONG
    last.set_xticks(range(len(labels)), labels, rotation=90 if upright else 0, fontsize=8)
    together = "; +: with all that it needs to go" if any(len(one.sites) > 1 for one in places) else ""
    what = f"{found.target}, level.number" if any(_leveled(one) for one in places) else str(found.target)
    last.set_xlabel(f"taken away alone ({what}){together}", color=INK, fontsize=9)
    figure.suptitle(
        f"Importance over depth: {found.source}\n{plural(found.clips, 'clip')}, {spread_over(found.seeds)}",
        color=INK,
        fontsize=11,
    )
    figure.align_ylabels()
    figure.savefig(path, metadata={"Software": "f3core"})


def _in_order(found: Importance) -> list[MeasuredPlace]:
    """Down, mid, up of each component, whatever belongs to one of them side by side; otherwise as places run."""
    components = list(dict.fromkeys(one.sites[0].partition(".")[0] for one in found.places))
    order = (None, *Stage)

    def key(one: MeasuredPlace) -> tuple[int, int]:
        return components.index(one.sites[0].partition(".")[0]), order.index(one.stage)

    return sorted(found.places, key=key)


def _importance(axes: Axes, found: Importance, places: Sequence[MeasuredPlace], name: str) -> None:
    figures = [found.importance(one, name) for one in places]
    shown = [(x, figure) for x, figure in enumerate(figures) if math.isfinite(figure.mean)]
    axes.bar(
        [x for x, _ in shown],
        [figure.mean for _, figure in shown],
        yerr=[figure.sd for _, figure in shown] if len(found.seeds) > 1 else None,
        color=COLOURS[found.target],
        error_kw={"elinewidth": 0.9, "capsize": 2.5, "ecolor": INK},
        width=0.7,
        zorder=3,
    )
    axes.axhline(0, color=INK, linewidth=0.8, zorder=4)
    if name == DAMAGE:
        title = "damage:\nmean squared error"
    else:
        moved = "falls by" if found.higher_is_better[metric_of(name)] else "rises by"
        title = f"{name}\n{moved}"
    axes.set_ylabel(title, color=INK, fontsize=9)


def _saved(axes: Axes, found: Importance, places: Sequence[MeasuredPlace]) -> None:
    """What each place saves of the whole, in percent, one bar beside the other."""
    bars = {
        "MACs": [one.macs_saved / found.macs if found.macs else 0.0 for one in places],
        "parameters": [one.parameters_saved / found.parameters if found.parameters else 0.0 for one in places],
    }
    if found.seconds:
        bars["seconds"] = [(one.seconds_saved or 0.0) / found.seconds for one in places]
    width = 0.8 / len(bars)
    for i, (name, shares) in enumerate(bars.items()):
        middles = [x + (i + 0.5) * width - 0.4 for x in range(len(shares))]
        axes.bar(middles, [100 * share for share in shares], width=width, color=SAVED[name], label=name, zorder=3)
    axes.axhline(0, color=INK, linewidth=0.8, zorder=4)
    axes.set_ylabel("saved,\n% of the denoiser's", color=INK, fontsize=9)
    axes.margins(y=0.3)
    axes.legend(loc="upper right", ncols=len(bars), frameon=False, fontsize=8)


def _stages(axes: Axes, places: Sequence[MeasuredPlace], *, named: bool) -> None:
    """A band behind every other run of places of one stage, and above the first panel its name."""
    runs = [(key, [x for x, _ in run]) for key, run in itertools.groupby(enumerate(places), lambda p: _stage(p[1]))]
    axes.set_xlim(-0.6, len(places) - 0.4)
    if len(runs) < 2:
        return
    for i, (name, run) in enumerate(runs):
        if i % 2:
            axes.axvspan(run[0] - 0.5, run[-1] + 0.5, color=SHADE, zorder=0, linewidth=0)
        if named:
            middle = (run[0] + run[-1]) / 2
            axes.annotate(
                name,
                (middle, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=INK,
            )


def _leveled(one: MeasuredPlace) -> bool:
    """Whether it lies in a U-Net, whose blocks are told by stage, level and number."""
    return one.stage in (Stage.DOWN, Stage.MID, Stage.UP)


def _stage(one: MeasuredPlace) -> str:
    """What a place stands under: its stage in a U-Net, else its component and the list that it is in."""
    if _leveled(one):
        return str(one.stage)
    words = one.sites[0].split(".")
    return ".".join(words[: next((i for i, word in enumerate(words) if word.isdigit()), len(words) - 1)])


def _labels(places: Sequence[MeasuredPlace]) -> list[str]:
    """Short names: level and number in a U-Net, elsewhere what of a path tells it from the others under its stage."""
    found = []
    for stage, run in itertools.groupby(places, _stage):
        paths = [one.sites[0].split(".") for one in run]
        first, last = _common(paths), _common([path[::-1] for path in paths])
        for path in paths:
            end = max(first + 1, len(path) - last)
            found.append(".".join(path[first:end]) or stage)
    for i, one in enumerate(places):
        if _leveled(one):
            found[i] = f"{one.level}.{one.number}"
        if len(one.sites) > 1:
            found[i] += "+"
    return found


def _common(paths: list[list[str]]) -> int:
    """How many words all begin with, of several."""
    if len(paths) < 2:
        return max(0, len(paths[0]) - 1)
    return sum(1 for _ in itertools.takewhile(lambda words: len(set(words)) == 1, zip(*paths, strict=False)))
