"""Counts of published models as a table: for a terminal, and as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from f3core.published import Pruning, PublishedCount
from f3core.report_text import si
from f3core.sites import KINDS, Removal

ABOUT = (
    "MACs are multiply-adds of everything that the denoiser computes, of one forward of one row and, within them, of "
    "attention maps by kind. Then, once TA is gone from so many of the layers (α) by a removal: the MACs that a clip "
    "saves, and the parameters that go with half of the layers."
)


def _heads(ratios: Sequence[float]) -> list[str]:
    maps = [f"{kind} maps" for kind in KINDS]
    saved = [f"α = {ratio:.0%}" for ratio in ratios]
    return ["model", "clip", "parameters", "MACs", *maps, "removal", *saved, "parameters gone"]


def _rows(count: PublishedCount, ratios: Sequence[float]) -> list[list[str]]:
    """A row a removal; the model is told in the first. One row where nothing can lose TA."""
    by_removal: dict[Removal, list[Pruning]] = {}
    for pruning in count.prunings:
        by_removal.setdefault(pruning.removal, []).append(pruning)
    told = [count.name, count.clip, si(count.parameters), si(count.forward), *(si(count.kinds[kind]) for kind in KINDS)]
    if not by_removal:
        return [[*told, "no TA", *[""] * len(ratios), ""]]
    rows: list[list[str]] = []
    for removal, prunings in by_removal.items():
        saved = [f"−{1 - pruning.macs / count.macs:.1%}" for pruning in prunings]
        half = min(prunings, key=lambda pruning: abs(pruning.ratio - 0.5)).parameters_removed
        rows.append([*(told if not rows else [""] * len(told)), str(removal), *saved, si(half) if half else "none"])
    return rows


def _ratios(counts: Sequence[PublishedCount]) -> list[float]:
    return list(dict.fromkeys(pruning.ratio for count in counts for pruning in count.prunings))


def published_table(counts: Sequence[PublishedCount]) -> RenderableType:
    """For a terminal, which is narrow: the clip stands under the model's name, and of the maps only TA's are told."""
    ratios = _ratios(counts)
    heads = _heads(ratios)
    shown = [i for i, head in enumerate(heads) if head not in ("clip", "CA maps", "SA maps")]
    table = Table(title="Published sizes, one forward of one row")
    for i in shown:
        table.add_column(heads[i], justify="left" if i == 0 else "right")
    for count in counts:
        rows = [[cell.strip() for cell in row] for row in _rows(count, ratios)]
        for row in rows:
            row[0] = f"{row[0]}\n{row[1]}".strip()
            table.add_row(*(row[i] for i in shown))
        table.add_section()
    return table


def published_markdown(counts: Sequence[PublishedCount], made: str) -> str:
    """A page; ``made`` says when, on which machine and by which command."""
    ratios = _ratios(counts)
    heads = _heads(ratios)
    lines = ["# Published models, counted from their configs", "", made, "", ABOUT, ""]
    lines += [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(cell.strip() for cell in row)} |" for count in counts for row in _rows(count, ratios)]
    slowest = max(counts, key=lambda count: count.seconds)
    lines += ["", f"The slowest to count was {slowest.name}, {slowest.seconds:.1f} s."]
    return "\n".join(lines) + "\n"


def published_data(counts: Sequence[PublishedCount]) -> list[dict[str, Any]]:
    """As JSON."""
    return [dataclasses.asdict(count) for count in counts]
