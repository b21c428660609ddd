"""The picture of a plan: attention mass by kind over the pruning axis, and the mean frame-to-frame map.

matplotlib is imported where it is used. Clips are drawn in `clips`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from f3core.clips import INK, side_by_side
from f3core.sites import KINDS, AttentionKind, PruningAxis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from f3core.plan import PruningPlan
    from f3core.scores import Scores

__all__ = ["attention_bars", "side_by_side"]

# Told apart by people with any colour vision, and in grey by lightness.
COLOURS = {AttentionKind.CROSS: "#DDAA33", AttentionKind.SELF: "#BB5566", AttentionKind.TEMPORAL: "#004488"}
NAMES = {AttentionKind.CROSS: "cross (CA)", AttentionKind.SELF: "self (SA)", AttentionKind.TEMPORAL: "temporal (TA)"}
BAND = "#E3E3E3"
TICKS = 32
"""The most tick labels along an axis."""


def attention_bars(scores: Scores, plan: PruningPlan, path: Path) -> None:
    """Draw CA, SA and TA mass over the plan's axis, with what is pruned marked, and the mean frame-to-frame map.

    Bars stand per site on the layer and cell axes, per calibrated step on the timestep axis; cells get a grid of
    their own below the bars. ``path`` names the PNG. Raises `ScoresError` when nothing was scored.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = plan.axis is PruningAxis.TIMESTEP
    cells = plan.axis is PruningAxis.CELL
    blocks = _blocks(scores, plan)
    mass = np.stack([scores.mass(kind) for kind in KINDS])
    if steps:
        mass = mass.sum(axis=1)
    else:
        mass = np.stack([mass[:, sites].sum(axis=(1, 2)) for sites in blocks.values()], axis=1)
    groups = mass.shape[1]
    width = float(np.clip(3.0 + 0.28 * groups, 5.5, 11.5))
    height = 4.4 + (0.35 + 0.22 * len(plan.step_ranges) if cells else 0.0)
    figure = Figure(figsize=(width + 4.0, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 if cells else 1, 2, width_ratios=(width, 3.6), height_ratios=_heights(plan, cells))
    bars = figure.add_subplot(grid[0, 0])
    _bars(bars, mass, _pruned(scores, plan, blocks), "pruned at every step" if cells else "pruned")
    if cells:
        below = figure.add_subplot(grid[1, 0], sharex=bars)
        _cells(below, scores, plan, blocks)
        bars.tick_params(labelbottom=False)
    _ticks(
        below if cells else bars,
        _levels(scores) if steps else _short(list(blocks)),
        "denoising step, noise level" if steps else "layer",
    )
    _frame_map(figure.add_subplot(grid[0, 1]), scores)
    figure.suptitle(
        f"Attention by kind; {plan.target} pruned in {len(plan.pruned)} of {len(plan.units)} "
        f"{ {PruningAxis.LAYER: 'layers', PruningAxis.TIMESTEP: 'step ranges', PruningAxis.CELL: 'cells'}[plan.axis] }",
        color=INK,
        fontsize=12,
    )
    figure.savefig(path, metadata={"Software": "f3core"})


def _heights(plan: PruningPlan, cells: bool) -> tuple[float, ...]:
    return (3.6, 0.35 + 0.22 * len(plan.step_ranges)) if cells else (1.0,)


def _blocks(scores: Scores, plan: PruningPlan) -> dict[str, list[int]]:
    """Sites (indices) that stand together: those of one parent module, where each parent holds one prunable site.

    So the cross-attention of a transformer block is drawn beside its self-attention, as one layer.
    """
    parents = [site.rpartition(".")[0] for site in plan.removals]
    together = len(set(parents)) == len(parents)
    blocks: dict[str, list[int]] = {}
    for index, site in enumerate(scores.header.sites):
        blocks.setdefault(site.rpartition(".")[0] if together else site, []).append(index)
    return blocks


def _pruned(scores: Scores, plan: PruningPlan, blocks: Mapping[str, Sequence[int]]) -> list[bool]:
    """Per group of bars, whether something in it is pruned (at every step, where bars are layers)."""
    if plan.axis is PruningAxis.TIMESTEP:
        gone = {index for unit in plan.pruned for index in unit.ranges}
        return [plan.range_of(level) in gone for level in scores.header.levels]
    return [any(plan.always(scores.header.sites[i]) for i in sites) for sites in blocks.values()]


def _bars(axes: Axes, mass: NDArray[np.float64], pruned: Sequence[bool], word: str) -> None:
    from matplotlib.patches import Patch

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
        axes.bar(places + offset, mass[i] / 10**power, bar, color=COLOURS[KINDS[i]], zorder=2)
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


def _cells(axes: Axes, scores: Scores, plan: PruningPlan, blocks: Mapping[str, Sequence[int]]) -> None:
    """Layers along x, step ranges down y; pruned cells filled."""
    from matplotlib.colors import ListedColormap

    gates = plan.gates()
    gone = np.zeros((len(plan.step_ranges), len(blocks)))
    for column, sites in enumerate(blocks.values()):
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


def _levels(scores: Scores) -> list[str]:
    return [f"{level:.3g}" if level < 10 else f"{level:.0f}" for level in scores.header.levels]


def _short(names: Sequence[str]) -> list[str]:
    """What tells dotted names apart; their number where that is long."""
    parts = [name.split(".") for name in names]
    if len({len(part) for part in parts}) == 1:
        differing = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
        short = [".".join(part[i] for i in differing) for part in parts]
        if len(names) > 1 and max(map(len, short)) <= 8:
            return short
    return [str(i) for i in range(len(names))]


def _ticks(axes: Axes, labels: Sequence[str], title: str) -> None:
    every = -(-len(labels) // TICKS)
    shown = range(0, len(labels), every)
    upright = max(map(len, labels)) > 3 and len(shown) > 8
    axes.set_xticks(list(shown), [labels[i] for i in shown], fontsize=9, rotation=90 if upright else 0)
    axes.set_xlabel(title, color=INK, fontsize=9)


def _frame_map(axes: Axes, scores: Scores) -> None:
    """Mean over the sites that relate frames: the share that queries of frame i give to keys of frame j."""
    maps = scores.frame_map()
    related = maps[maps.sum(axis=(1, 2)) > 0]
    mean = related.mean(axis=0) if len(related) else maps.mean(axis=0)
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
    axes.set_title("share of a query's attention,\nmean over layers", fontsize=9, color=INK)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0)
