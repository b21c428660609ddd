"""A `Comparison` as tables, for the terminal, Markdown and CSV: what every row costs, and how good its clips are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from f3core.compare_rows import DAMAGE, figures_of
from f3core.csv_text import csv_text
from f3core.pace import how_timed
from f3core.report_text import DASH, Lines, markdown_table, place, plural, seconds, si, terminal_table, times

if TYPE_CHECKING:
    from f3core.compare_rows import Comparison, Row
    from f3core.stats import Figure

EQUAL = 1e-6
"""Shares that are no further apart come from the same counts."""
MARK = "●"
"""beside what is on the Pareto front"""


def cost(found: Comparison) -> Lines:
    """Multiply-adds, parameters and memory of one clip. Columns that no row fills are left out."""
    head = ["row", "MACs ↓", "of unpruned", "predicted", "parameters ↓", "memory ↓"]
    lines = [
        [
            row.name,
            si(row.macs).strip(),
            f"{100 * row.share:.1f} %",
            DASH if row.predicted is None else f"{100 * row.predicted:.1f} %",
            si(row.parameters).strip(),
            DASH if row.memory is None else f"{si(row.memory)}B",
        ]
        for row in found.rows
    ]
    filled = [i for i in range(len(head)) if any(line[i] != DASH for line in lines)]
    return [head[i] for i in filled], [[line[i] for i in filled] for line in lines]


def time(found: Comparison) -> Lines:
    """Seconds of one clip and speed-ups; no more than names where nothing was timed."""
    if found.timed_clips is None:
        return ["row"], [[row.name] for row in found.rows]
    lines = []
    for row in found.rows:
        assert row.seconds is not None
        assert row.speedup is not None
        inside = [seconds(row.seconds.denoiser), times(row.speedup.denoiser)]
        lines.append([row.name, *inside, seconds(row.seconds.end_to_end), times(row.speedup.end_to_end)])
    return ["row", "denoiser ↓", "speed-up ↑", "end to end ↓", "speed-up ↑"], lines


def quality(found: Comparison) -> Lines:
    """Every metric's figures and the damage, with 95 % intervals over seeds; what is on the Pareto front is marked."""
    arrows = {metric: "↑" if better else "↓" for metric, better in found.higher_is_better.items()}
    head = ["row", *(f"{_label(found, metric, name)} {arrows[metric]}" for metric, name in _figures(found))]
    lines = []
    for row in found.rows:
        cells = [_cell(found, row, metric, name) for metric, name in _figures(found)]
        damage = "0" if row is found.rows[0] else _cell(found, row, DAMAGE, DAMAGE)
        lines.append([row.name, *cells, damage])
    return [*head, f"{DAMAGE} ↓"], lines


def _figures(found: Comparison) -> list[tuple[str, str]]:
    return [(metric, name) for metric, names in figures_of(found.rows).items() for name in names]


def _cell(found: Comparison, row: Row, metric: str, name: str) -> str:
    if metric not in (DAMAGE, *row.quality):
        return DASH
    text = row.figure(metric, name).interval(".3g")
    on_front = row.pareto.get(metric, False) and found.telling[metric] == name
    return f"{text} {MARK}" if on_front else text


def _label(found: Comparison, metric: str, name: str) -> str:
    """The figure's name, with its metric's where two have one of that name."""
    known = [other for _, other in _figures(found)]
    return name if known.count(name) == 1 else f"{metric}: {name}"


def whole(found: Comparison) -> Lines:
    """One table of everything."""
    parts = [cost(found), time(found), quality(found)]
    head = ["row", *(title for titles, _ in parts for title in titles[1:])]
    return head, [
        [row.name, *(cell for _, lines in parts for cell in lines[i][1:])] for i, row in enumerate(found.rows)
    ]


def what(found: Comparison) -> Lines:
    """What every row is, in words."""
    rows = [[row.name, row.what, f"{row.pruned:g} of {row.units}" if row.units else DASH] for row in found.rows]
    return ["row", "what it is", "units pruned"], rows


def notes(found: Comparison) -> Iterator[str]:
    """How the numbers came about."""
    many = len(found.seeds) > 1
    over = (
        f"means with their 95 % intervals (Student's t) over seeds {', '.join(map(str, found.seeds))}"
        if many
        else "one seed, so without intervals"
    )
    yield (
        f"Quality: {plural(found.clips, 'clip')} of {found.steps} steps, {over}; all rows of a seed meet the same "
        "prompts and noise. Damage is the mean squared error to the unpruned model's clips."
    )
    for metric, names in figures_of(found.rows).items():
        if names != [metric]:
            yield f"{metric} gives {', '.join(names)}."
    yield (
        "MACs: multiply-adds of one clip, denoisers only, counted operator by operator while it was made, and the "
        "share that the plan predicted. Means over seeds."
    )
    if any(row.predicted is not None and abs(row.predicted - row.share) > EQUAL for row in found.rows):
        yield (
            "Counted and predicted shares differ where a generation does otherwise than the single forwards that are "
            "priced: it folds weights again as a range of pruned steps begins, or feeds tokens one by one from a cache."
        )
    if any(row.source for row in found.rows):
        yield (
            f"Rows of another model generate as {found.source} does, with the same call, and are measured against it; "
            "what they prune was scored on that other model."
        )
    if found.calibrated != found.steps:
        yield f"Plans predict for the {found.calibrated} calibrated steps, so nothing is predicted for {found.steps}."
    by = "denoiser seconds" if found.timed_clips else "MACs"
    marked = ", ".join(dict.fromkeys(name for name in found.telling.values()))
    yield f"{MARK}: on the Pareto front of {by} and {marked}, by means."
    if timings := [o.timing for o in found.outcomes if o.timing]:
        yield how_timed(timings, "runs of the unpruned model and the row")
    how = next((o.memory.how for o in found.outcomes if o.memory), None)
    if how:
        yield f"Memory: what a generation of one clip adds at its peak, weights not included; {how}, first seed."


def headline(found: Comparison) -> str:
    """What was compared."""
    return f"{plural(len(found.rows) - 1, 'row')} beside the unpruned {found.source}."


def render(found: Comparison) -> RenderableType:
    """The tables for a terminal."""
    parts = [what(found), cost(found), *([time(found)] if found.timed_clips else []), quality(found)]
    tables = [terminal_table(*part, left=["what it is"]) for part in parts]
    return Group(Text(headline(found)), *tables, *(Text(f"· {note}", style="dim") for note in notes(found)))


def to_markdown(found: Comparison) -> str:
    """The table and the picture, and how they were made."""
    parts = [
        f"# Comparison: {found.source}",
        headline(found),
        "![quality against cost](compare.png)",
        "## Cost and quality",
        markdown_table(*whole(found)),
        "\n".join(f"- {note}" for note in notes(found)),
        "## Rows",
        markdown_table(*what(found)),
        "## Reproduce",
        f"```\n{found.command}\n```",
        markdown_table(("", ""), place(found.source, found.spec, found.date, found.machine, found.versions)),
    ]
    return "\n\n".join(parts) + "\n"


def to_csv(found: Comparison) -> str:
    """One line a row: all numbers, in MACs, seconds and bytes. ``*_low`` and ``*_high`` are the ends of intervals."""
    return csv_text(_numbers(found, row) for row in found.rows)


def _numbers(found: Comparison, row: Row) -> Iterator[tuple[str, object]]:
    yield from (("row", row.name), ("what", row.what), ("source", row.source or found.source))
    yield from (("units_pruned", row.pruned), ("units", row.units))
    yield from (("macs", row.macs), ("macs_share", row.share), ("macs_share_predicted", row.predicted))
    yield "parameters", row.parameters
    for name, pace in (("seconds", row.seconds), ("speedup", row.speedup)):
        yield f"denoiser_{name}", pace.denoiser if pace else None
        yield f"end_to_end_{name}", pace.end_to_end if pace else None
    yield "memory_added", row.memory
    for metric, name in [*_figures(found), (DAMAGE, DAMAGE)]:
        figure = row.figure(metric, name) if metric in (DAMAGE, *row.quality) else None
        yield from _ends(name if metric == name else f"{metric}.{name}", figure)
    for metric in found.telling:
        yield f"pareto.{metric}", int(row.pareto[metric])


def _ends(name: str, figure: Figure | None) -> Iterator[tuple[str, float | None]]:
    half = figure.half_width if figure else None
    yield name, figure.mean if figure else None
    yield f"{name}_low", None if figure is None or half is None else figure.mean - half
    yield f"{name}_high", None if figure is None or half is None else figure.mean + half
