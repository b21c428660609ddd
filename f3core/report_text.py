"""A `Report` as text: rich tables for the terminal, Markdown for the output folder. Both show the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from f3core.budget_text import TITLE, tried_lines
from f3core.sites import KINDS, Structure

if TYPE_CHECKING:
    from f3core.environment import Machine
    from f3core.evaluate import Timing
    from f3core.report import MacsChange, Report

DASH = "–"
Lines = tuple[list[str], list[list[str]]]
"""the head and the rows of a table"""
LONG_TABLE = 40
"""More units than this are folded away in Markdown."""


@dataclass(frozen=True)
class Row:
    """One line: before, after, change, and the change that was predicted. ``better`` is None where it does not say."""

    label: str
    before: str = ""
    after: str = ""
    change: str = ""
    predicted: str = ""
    better: bool | None = None


@dataclass(frozen=True)
class Section:
    """Rows under a title; ``note`` says how they were measured."""

    title: str
    rows: list[Row] = field(default_factory=list)
    note: str = ""


# --- numbers --------------------------------------------------------------------------------------------------------


def si(number: float) -> str:
    """A number with three digits and an SI prefix, ready for its unit: ``12.3 G``, ``640 ``."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(number) >= 0.9995 * 10**power:
            return f"{_three(number / 10**power)} {prefix}"
    return f"{_three(number)} "


def _three(number: float) -> str:
    return f"{number:.{2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0}f}".replace("-", "−")


def seconds(number: float) -> str:
    """Seconds in a unit that keeps three digits."""
    if number >= 600:
        return f"{number / 60:.1f} min"
    return f"{_three(number)} s" if number >= 1 else f"{_three(number * 1e3)} ms"


def percent(before: float, after: float) -> str:
    """Relative change, signed: ``−26.0 %``."""
    if before == after:
        return "0 %"
    if not before:
        return DASH
    return f"{100 * (after - before) / abs(before):+.1f} %".replace("-", "−")


def plural(count: int, word: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {word}{'s' * (count != 1)}"


def times(factor: float) -> str:
    """A speed-up: ``1.34×``."""
    return f"{factor:.2f}×"


def _better(before: float, after: float, higher: bool = False) -> bool | None:
    if abs(after - before) <= 0.005 * abs(before):
        return None
    return (after > before) == higher


# --- rows -----------------------------------------------------------------------------------------------------------


def sections(report: Report) -> Iterator[Section]:
    """The tables of a report, in order; those without a row are left out."""
    some = " Of several forwards, the one is shown in which most is pruned." if report.plan.gated else ""
    macs = Section("Work", note=f"1 MAC = one multiply-add; predicted by the plan, counted on the pruned model.{some}")
    for label, change in (("One clip, all steps", report.generation), *_forwards(report)):
        macs.rows.extend(_macs(label, change))
    yield macs
    size = Section("Size", note="denoiser only")
    counts = (("Parameters", report.parameters, ""), ("Weights, in this dtype", report.disk, "B"))
    for label, count, unit in counts:
        if count is not None and count.before is not None and count.after is not None:
            size.rows.append(_number(label, count.before, count.after, unit))
    yield size
    if report.timing:
        t = report.timing
        clips = "1 clip" if t.clips == 1 else f"{t.clips} clips in one batch"
        note = f"{clips}, {t.steps} steps; medians of {len(t.denoiser.before_runs)} interleaved pairs"
        predicted = times(report.predicted_speedup)
        yield Section("Time", [*_time("Denoiser", t.denoiser, predicted), *_time("End to end", t.end_to_end)], note)
    if report.memory_before and report.memory_after:
        b, a = report.memory_before, report.memory_after
        rows = [_number("Added by a run", b.added, a.added, "B")]
        yield Section("Peak memory", rows, note=b.how)
    quality = Section(
        "Quality", note=f"{report.clips} clips each, ↑ higher is better, ↓ lower; damage is from equal noise"
    )
    for metric, q in report.quality.items():
        for name, before in q.before.items():
            after = q.after.get(name, float("nan"))
            label = f"{metric}: {name} {'↑' if q.higher_is_better else '↓'}"
            better = _better(before, after, q.higher_is_better)
            quality.rows.append(Row(label, f"{before:.4g}", f"{after:.4g}", percent(before, after), better=better))
    if report.damage is not None:
        quality.rows.append(Row("damage: mean squared error ↓", DASH, f"{report.damage:.3g}"))
    yield quality


def _forwards(report: Report) -> list[tuple[str, MacsChange]]:
    return [(f"One {component} forward", change) for component, change in report.forwards.items()]


def _macs(label: str, change: MacsChange) -> Iterator[Row]:
    yield _number(label, change.before.total, change.counted.total, "MAC", change.predicted.total)
    for kind in KINDS:
        before, after = change.before.kinds.get(kind), change.counted.kinds.get(kind)
        if before is not None and after is not None and (before or after):
            yield _number(f"  {kind} maps", before, after, "MAC", change.predicted.kinds.get(kind))


def _number(label: str, before: int, after: int, unit: str, predicted: int | None = None) -> Row:
    shown, left = (f"{si(n)}{unit}".rstrip() for n in (before, after))
    expected = "" if predicted is None else percent(before, predicted)
    return Row(label, shown, left, percent(before, after), expected, _better(before, after))


def _time(label: str, timing: Timing, predicted: str = "") -> Iterator[Row]:
    better = _better(timing.before, timing.after)
    change = percent(timing.before, timing.after)
    yield Row(label, seconds(timing.before), seconds(timing.after), change, better=better)
    yield Row("  speed-up", "", times(timing.speedup), "", predicted, better)


def headline(report: Report) -> str:
    """One sentence: what was pruned and how it was chosen."""
    plan, chosen = report.plan, f"chosen by method {report.plan.method}"
    chosen += f", criterion {plan.criterion}" if plan.ranked else ""
    if plan.target is Structure.BLOCK:
        gone, units = plural(sum(plan.sites.values()), "block"), plural(len(plan.units), "unit")
        return f"{gone} taken out whole, in {plan.pruned} of {units} ({plan.goal}); {chosen}."
    what = {"layer": "layers", "timestep": "step ranges", "cell": "cells (layer × step range)"}[plan.axis]
    how = " + ".join(f"{removal} at {n} site{'s' * (n != 1)}" for removal, n in plan.sites.items()) or "nothing removed"
    return f"{plan.scope} pruned in {plan.pruned} of {len(plan.units)} {what} ({plan.goal}): {how}; {chosen}."


def facts(report: Report) -> list[tuple[str, str]]:
    """Where, when and with what."""
    model = f"{report.source} (adapter {report.plan.adapter})"
    found = place(model, report.spec, report.date, report.machine, report.versions)
    if report.plan.gated:
        graphs = ", ".join(f"{plural(n, 'graph')} of {name}" for name, n in report.plan.graphs.items())
        found.append(("Compiled in place", f"{graphs}, one for each state of the gates"))
    return found


def place(model: str, spec: str, date: str, machine: Machine, versions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Where, when and with what something was measured, as two columns."""
    m = machine
    where = f"{m.cpu}, {plural(m.cores, 'core')}, {si(m.memory)}B memory, {m.gpu or 'no GPU'}, {m.system}"
    return [
        ("Model", model),
        ("Spec", spec),
        ("Date", date),
        ("Machine", where),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]


# --- terminal -------------------------------------------------------------------------------------------------------


def render(report: Report) -> RenderableType:
    """A report for the terminal, readable from 80 columns on."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("")
    for column in ("before", "after", "change", "predicted"):
        table.add_column(column, justify="right", no_wrap=True)
    for section in sections(report):
        if not section.rows:
            continue
        table.add_row(f"[bold]{section.title}[/]")
        for row in section.rows:
            style = {True: "green", False: "yellow", None: "dim"}[row.better]
            table.add_row(
                f"  {escape(row.label)}", f"[dim]{row.before}[/]", row.after, f"[{style}]{row.change}[/]", row.predicted
            )
    lines: list[RenderableType] = [Text(headline(report)), Text(), table, Text()]
    if report.tried:
        lines += [Text(TITLE, "bold"), terminal_table(*tried_lines(report.tried), left=["verdict"])]
    notes = [f"{s.title}: {s.note.removesuffix('.')}." for s in sections(report) if s.rows and s.note]
    lines += [_item("·", text, "dim") for text in (*notes, *(f"{k}: {v}" for k, v in facts(report)))]
    lines += [_item("·", note, "") for note in report.notes]
    lines += [_item("!", warning, "yellow") for warning in report.warnings]
    return Group(*lines)


def terminal_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[str] = ()) -> Table:
    """A table whose first column, and those named in ``left``, stand to the left."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, title in enumerate(head):
        table.add_column(Text(title), justify="left" if not i or title in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # names may hold what rich takes for markup
    return table


def _item(mark: str, text: str, style: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(mark, style=style), Text(text, style=style))
    return grid


# --- markdown -------------------------------------------------------------------------------------------------------


def to_markdown(report: Report) -> str:
    """A report as GitHub-flavoured Markdown, with its figure and clips by relative path."""
    parts = [f"# Pruned: {_md(report.source)}", _md(headline(report))]
    if report.warnings:
        parts.append("\n".join(f"> **Note.** {_md(text)}\n>" for text in report.warnings).removesuffix("\n>"))
    if report.gif:
        video = f" ([as video]({report.mp4}))" if report.mp4 else ""
        parts += [
            "## Before and after",
            f"Same prompts, same noise{video}.",
            f"![clips before and after]({report.gif})",
        ]
    parts.append("## Cost and quality")
    for section in sections(report):
        if section.rows:
            note = section.note.removesuffix(".")
            note = f"{note[0].upper()}{note[1:]}.\n\n" if note else ""
            columns = 5 if any(row.predicted for row in section.rows) else 4
            head = ("", "before", "after", "change", "predicted")[:columns]
            rows = [(r.label, r.before, r.after, r.change, r.predicted)[:columns] for r in section.rows]
            parts.append(f"### {section.title}\n\n{note}{markdown_table(head, rows)}")
    if report.tried:
        parts += [f"## {TITLE}", markdown_table(*tried_lines(report.tried))]
    parts.append("## What was pruned, and why")
    if report.figure:
        parts.append(f"![attention mass of each kind]({report.figure})")
    parts.append(_units(report))
    parts += [f"- {_md(note)}" for note in report.notes]
    parts += ["## Reproduce", f"```\n{report.command}\n```", markdown_table(("", ""), facts(report))]
    return "\n\n".join(parts) + "\n"


def _units(report: Report) -> str:
    plan = report.plan
    rows = [
        (unit.name, f"{unit.score:.4g}", f"**{plan.target} pruned**" if unit.pruned else "kept", f"{unit.macs_saved:,}")
        for unit in plan.units
    ]
    by = f"score ({plan.criterion})" if plan.ranked else "score"
    text = markdown_table(("unit", by, "verdict", "MACs saved a clip, if pruned"), rows)
    if len(rows) > LONG_TABLE:
        text = f"<details><summary>All {len(rows)} units</summary>\n\n{text}\n\n</details>"
    if len(plan.step_ranges) > 1:
        ranges = ", ".join(f"steps[{i}] = {r}" for i, r in enumerate(plan.step_ranges))
        text = f"Noise levels: {_md(ranges)}.\n\n{text}"
    return text


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub-flavoured table: the first column to the left, those beside it (if more than one) to the right."""
    align = [":--", *["--:"] * (len(head) - 1)] if len(head) > 2 else [":--"] * len(head)
    cells = [head, align, *rows]
    return "\n".join("| " + " | ".join(_md(cell) for cell in row) + " |" for row in cells)


def _md(text: str) -> str:
    leading = len(text) - len(text.lstrip())
    return "&nbsp;" * leading + text.strip().replace("|", "\\|").replace("\n", " ")
