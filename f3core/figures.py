"""The picture of attention: mass by kind over layers or steps, what a plan prunes, and the mean frame-to-frame map.

matplotlib is imported where it is used. Clips are drawn in `clips`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from f3core.clips import INK, side_by_side
from f3core.masses import blocks, masses, temporal_maps
from f3core.sites import KINDS, AttentionKind, PruningAxis, Structure, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from f3core.plan import PruningPlan
    from f3core.scores import Scores

__all__ = ["attention_bars", "attention_over", "side_by_side"]

# Told apart by people with any colour vision, and in grey by lightness.
COLOURS: dict[Target, str] = {
    AttentionKind.CROSS: "#DDAA33",
    AttentionKind.SELF: "#BB5566",
    AttentionKind.TEMPORAL: "#004488",
    Structure.BLOCK: "#228833",
}
NAMES: dict[Target, str] = {
    AttentionKind.CROSS: "cross (CA)",
    AttentionKind.SELF: "self (SA)",
    AttentionKind.TEMPORAL: "temporal (TA)",
    Structure.BLOCK: "whole blocks",
}
BAND = "#E3E3E3"
TICKS = 32
"""The most tick labels along an axis."""


def tidy_(axes: Axes) -> None:
    """A faint grid, no tick marks, and a frame on two sides: how every curve is drawn."""
    axes.grid(color="#DDDDDD", linewidth=0.6, zorder=0)
    axes.tick_params(labelsize=8, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def attention_bars(scores: Scores, plan: PruningPlan, path: Path) -> None:
    """Draw CA, SA and TA mass over the plan's axis, with what is pruned marked, and the mean frame-to-frame map.

    Bars stand per site on the layer and cell axes, per calibrated step on the timestep axis; cells get a grid of
    their own below the bars. ``path`` names the PNG. Raises `ScoresError` when nothing was scored.
    """
    units = {PruningAxis.LAYER: "layers", PruningAxis.TIMESTEP: "step ranges", PruningAxis.CELL: "cells"}[plan.axis]
    title = f"Attention by kind; {plan.target} pruned in {len(plan.pruned)} of {len(plan.units)} {units}"
    _draw([scores], blocks(scores.header), plan.axis, plan, title, path)


def attention_over(
    runs: Sequence[Scores], layers: Mapping[str, Sequence[int]], axis: PruningAxis, title: str, path: Path
) -> None:
    """Draw CA, SA and TA mass over layers or steps, and the mean frame-to-frame map: means over runs of one model,
    with their standard deviations where there are several. Otherwise as `attention_bars`."""
    _draw(runs, layers, axis, None, title, path)


def _draw(
    runs: Sequence[Scores],
    layers: Mapping[str, Sequence[int]],
    axis: PruningAxis,
    plan: PruningPlan | None,
    title: str,
    path: Path,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = [masses(scores, axis, layers) for scores in runs]
    labels = found[0].labels
    gridded = plan if plan is not None and plan.axis is PruningAxis.CELL else None
    extra = 0.35 + 0.22 * len(gridded.step_ranges) if gridded else 0.0
    width = float(np.clip(3.0 + 0.28 * len(labels), 5.5, 11.5))
    figure = Figure(figsize=(width + 4.0, 4.4 + extra), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    heights = (3.6, extra) if gridded else (1.0,)
    grid = figure.add_gridspec(len(heights), 2, width_ratios=(width, 3.6), height_ratios=heights)
    bars = lowest = figure.add_subplot(grid[0, 0])
    pruned = _pruned(runs[0], plan, layers) if plan is not None else [False] * len(labels)
    _bars(bars, np.stack([one.mass for one in found]), pruned, "pruned at every step" if gridded else "pruned")
    if gridded:
        lowest = figure.add_subplot(grid[1, 0], sharex=bars)
        _cells(lowest, runs[0], gridded, layers)
        bars.tick_params(labelbottom=False)
    _ticks(lowest, labels, "denoising step, noise level" if axis is PruningAxis.TIMESTEP else "layer")
    mean = np.mean([temporal_maps(scores).mean(axis=0) for scores in runs], axis=0)
    _frame_map(figure.add_subplot(grid[0, 1]), mean)
    figure.suptitle(title, color=INK, fontsize=12)
    figure.savefig(path, metadata={"Software": "f3core"})


def _pruned(scores: Scores, plan: PruningPlan, layers: Mapping[str, Sequence[int]]) -> list[bool]:
    """Per group of bars, whether something in it is pruned (at every step, where bars are layers)."""
    if plan.axis is PruningAxis.TIMESTEP:
        gone = {index for unit in plan.pruned for index in unit.ranges}
        return [plan.range_of(level) in gone for level in scores.header.levels]
    return [any(plan.always(scores.header.sites[i]) for i in sites) for sites in layers.values()]


def _bars(axes: Axes, runs: NDArray[np.float64], pruned: Sequence[bool], word: str) -> None:
    """Bars of the mass [R, 3, G] that R runs found in G groups: means, with standard deviations of several runs."""
    from matplotlib.patches import Patch

    mass, spread = runs.mean(axis=0), runs.std(axis=0)
    present = [i for i in range(len(KINDS)) if mass[i].any()]
    bar = 0.8 / max(len(present), 1)
    power = int(np.log10(mass.max())) if mass.max() >= 1e4 else 0
    places = np.arange(mass.shape[1])
    for place, gone in zip(places, pruned, strict=True):
        if gone:
            axes.axvspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
    handles: list[Any] = []
    for slot, i in enumerate(present):
        offset = (slot - (len(present) - 1) / 2) * bar
        axes.bar(
            places + offset,
            mass[i] / 10**power,
            bar,
            yerr=spread[i] / 10**power if len(runs) > 1 else None,
            error_kw={"elinewidth": 0.9, "capsize": 1.5, "ecolor": INK},
            color=COLOURS[KINDS[i]],
            zorder=2,
        )
        handles.append(Patch(color=COLOURS[KINDS[i]], label=NAMES[KINDS[i]]))
    if any(pruned):
        handles.append(Patch(color=BAND, label=word))
    axes.legend(handles=handles, ncols=len(handles), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)
    unit = f" / 10$^{{{power}}}$" if power else ""
    axes.set_ylabel(f"aggregate attention score{unit}\n(mass summed over queries and heads)", color=INK, fontsize=9)
    axes.set_xlim(-0.5, mass.shape[1] - 0.5)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6, zorder=1)
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _cells(axes: Axes, scores: Scores, plan: PruningPlan, layers: Mapping[str, Sequence[int]]) -> None:
    """Layers along x, step ranges down y; pruned cells filled."""
    from matplotlib.colors import ListedColormap

    gates = plan.gates()
    gone = np.zeros((len(plan.step_ranges), len(layers)))
    for column, sites in enumerate(layers.values()):
        for index in sites:
            gone[sorted(gates.get(scores.header.sites[index], ())), column] = 1
    axes.pcolormesh(
        np.arange(gone.shape[1] + 1) - 0.5,
        np.arange(gone.shape[0] + 1) - 0.5,
        gone,
        cmap=ListedColormap(["#FFFFFF", "#9A9A9A"]),
        vmin=0,
        vmax=1,
        edgecolors="#CCCCCC",
        linewidth=0.6,
    )
    axes.invert_yaxis()
    axes.set_yticks(range(gone.shape[0]), [_span(r.high, r.low) for r in plan.step_ranges], fontsize=8)
    axes.set_ylabel("pruned cells\n(noise level)", color=INK, fontsize=9)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _span(high: float | None, low: float | None) -> str:
    return f"{'∞' if high is None else f'{high:.3g}'} – {'0' if low is None else f'{low:.3g}'}"


def _ticks(axes: Axes, labels: Sequence[str], title: str) -> None:
    every = -(-len(labels) // TICKS)
    shown = range(0, len(labels), every)
    upright = max(map(len, labels)) > 3 and len(shown) > 8
    axes.set_xticks(list(shown), [labels[i] for i in shown], fontsize=9, rotation=90 if upright else 0)
    axes.set_xlabel(title, color=INK, fontsize=9)


def _frame_map(axes: Axes, mean: NDArray[np.float64]) -> None:
    """A map [F, F]: the share that queries of frame i give to keys of frame j."""
    frames = mean.shape[0]
    image = axes.imshow(mean, cmap="cividis", vmin=0)
    if frames <= 8:
        dark = mean.max() * 0.55
        for i, j in np.ndindex(mean.shape):
            colour = "black" if mean[i, j] > dark else "white"
            share = f"{mean[i, j]:.2f}".removeprefix("0")
            axes.text(j, i, share, ha="center", va="center", color=colour, fontsize=7)
    every = -(-frames // 8)
    axes.set_xticks(range(0, frames, every))
    axes.set_yticks(range(0, frames, every))
    axes.tick_params(labelsize=9, length=0)
    axes.set_xlabel("key frame", color=INK, fontsize=9)
    axes.set_ylabel("query frame", color=INK, fontsize=9)
    axes.set_title("share of a query's attention,\nmean over the sites that hold TA", fontsize=9, color=INK)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0)
