"""A `Sweep` as tables, on the terminal and in Markdown: what every variant costs, and how good its clips are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from f3core.pace import how_timed
from f3core.report_text import Lines, markdown_table, place, plural, seconds, si, terminal_table, times
from f3core.sites import scope

if TYPE_CHECKING:
    from f3core.sweep_rows import Row, Sweep


def cost(sweep: Sweep) -> Lines:
    """What was done, multiply-adds of one clip and parameters."""
    head = ["pruned", "ratio", "by", "units", "MACs", "predicted", "removed", "parameters"]
    rows = []
    for row in sweep.rows:
        units = f"{row.pruned:g} of {row.units}" if row.target else ""
        counted, predicted, size = (si(n).strip() for n in (row.macs_counted, row.macs_predicted, row.parameters))
        removed = f"{100 * row.macs_removed:.1f} %"
        rows.append([*_name(row), row.removal, units, counted, predicted, removed, size])
    return head, rows


def time(sweep: Sweep) -> Lines:
    """Seconds of one clip and speed-ups; no row where nothing was timed."""
    head = ["pruned", "ratio", "denoiser", "speed-up", "by MACs", "end to end", "speed-up"]
    rows = []
    for row in sweep.rows:
        if row.seconds and row.speedup:
            inside = [seconds(row.seconds.denoiser), times(row.speedup.denoiser), times(row.predicted_speedup)]
            rows.append([*_name(row), *inside, seconds(row.seconds.end_to_end), times(row.speedup.end_to_end)])
    return head, rows


def quality(sweep: Sweep) -> Lines:
    """Every metric's figures and the damage of every variant, means ± standard deviations over seeds."""
    first = sweep.rows[0].quality
    names = [(metric, name) for metric, figures in first.items() for name in figures]
    arrows = {metric: "↑" if better else "↓" for metric, better in sweep.higher_is_better.items()}
    head = [
        "pruned",
        "ratio",
        *(f"{_label(sweep, metric, name)} {arrows[metric]}" for metric, name in names),
        "damage ↓",
    ]
    several = len(sweep.seeds) > 1
    lines = []
    for row in sweep.rows:
        figures = [row.quality[metric][name] for metric, name in names]
        damage = "0" if row.target is None else row.damage.text(several)
        lines.append([*_name(row), *(figure.text(several) for figure in figures), damage])
    return head, lines


def _name(row: Row) -> list[str]:
    return [str(row.target), f"{row.ratio:g}"] if row.target else ["none", "0"]


def _label(sweep: Sweep, metric: str, name: str) -> str:
    """The figure's name, with its metric's where two have one of that name."""
    known = [other for figures in sweep.rows[0].quality.values() for other in figures]
    return name if known.count(name) == 1 else f"{metric}: {name}"


def headline(sweep: Sweep) -> str:
    """What was varied, and how the units were chosen."""
    targets = list(dict.fromkeys(scope(row.target, sweep.branch) for row in sweep.rows if row.target))
    ratios = list(dict.fromkeys(f"{row.ratio:g}" for row in sweep.rows if row.target))
    return (
        f"{' and '.join(targets) or 'nothing'} pruned on axis {sweep.axis} at {plural(len(ratios), 'ratio')}; units "
        f"chosen by method {sweep.method}{f', criterion {sweep.criterion}' if sweep.criterion else ''}."
    )


def notes(sweep: Sweep) -> Iterator[str]:
    """How the numbers came about."""
    many = len(sweep.seeds) > 1
    over = f"means ± standard deviations over seeds {', '.join(map(str, sweep.seeds))}" if many else "one seed"
    others = [str(row.target) for row in sweep.rows if row.removal and str(sweep.removal) not in row.removal]
    if sweep.removal is not None and others:
        unable = " and ".join(dict.fromkeys(others))
        yield f"The spec asks for {sweep.removal}, which {unable} cannot do; column by says what was done."
    yield (
        f"Quality: {plural(sweep.clips, 'clip')} of {sweep.steps} steps, {over}; all variants of a seed meet the same "
        "prompts and noise. Damage is the mean squared error to the unpruned model's clips."
    )
    for metric, figures in sweep.rows[0].quality.items():
        if list(figures) != [metric]:
            yield f"{metric} gives {', '.join(figures)}."
    yield "MACs: of one clip, all calibrated steps, denoisers only. By MACs: the speed-up if time went with them."
    if timings := [o.timing for o in sweep.outcomes if o.timing]:
        yield how_timed(timings, "unpruned and pruned runs a variant")


def render(sweep: Sweep) -> RenderableType:
    """The tables for a terminal."""
    tables = [terminal_table(head, rows, ["by"]) for head, rows in (cost(sweep), time(sweep), quality(sweep)) if rows]
    return Group(Text(headline(sweep)), *tables, *(Text(f"· {note}", style="dim") for note in notes(sweep)))


def to_markdown(sweep: Sweep) -> str:
    """The tables and the picture, and how they were made."""
    facts = place(sweep.source, sweep.spec, sweep.date, sweep.machine, sweep.versions)
    parts = [
        f"# Sweep: {sweep.source}",
        headline(sweep),
        "![quality against MACs and seconds](curve.png)",
        "## Quality",
        markdown_table(*quality(sweep)),
        "## Cost",
        markdown_table(*cost(sweep)),
        *([markdown_table(*time(sweep))] if sweep.timed_clips else []),
        "\n".join(f"- {note}" for note in notes(sweep)),
        "## Reproduce",
        f"```\n{sweep.command}\n```",
        markdown_table(("", ""), facts),
    ]
    return "\n\n".join(parts) + "\n"
