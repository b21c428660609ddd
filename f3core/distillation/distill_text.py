"""A `Distillation` to read: tables for the terminal, Markdown for the output folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from f3core.report_text import DASH, Lines, markdown_table, percent, place, plural, seconds, si, terminal_table, times

if TYPE_CHECKING:
    from f3core.distillation.distill_report import Distillation

FIGURE = "losses.png"


def models(found: Distillation) -> Lines:
    """Parameters, multiply-adds and seconds of the teacher and the student."""
    head = ["model", "parameters ↓", "of teacher", "MACs of a clip ↓", "of teacher"]
    rows = []
    for name, variant in found.variants.items():
        sizes = (
            (variant.parameters, found.teacher.parameters, ""),
            (variant.macs, found.teacher.macs, "MAC"),
        )
        rows.append([name, *(cell for size in sizes for cell in _share(*size))])
    return head, rows


def _share(number: int, whole: int, unit: str) -> tuple[str, str]:
    return f"{si(number)}{unit}".strip(), f"{100 * number / whole:.1f} %" if whole else DASH


def time(found: Distillation) -> Lines:
    """Seconds of the teacher and the student; no row where nothing was timed."""
    head = ["", "teacher", "student", "speed-up ↑"]
    if found.timing is None:
        return head, []
    parts = (("denoiser", found.timing.denoiser), ("end to end", found.timing.end_to_end))
    return head, [[name, seconds(t.before), seconds(t.after), times(t.speedup)] for name, t in parts]


def quality(found: Distillation) -> Lines:
    """Every metric's figures and the damage, of the teacher and of the student before and after training."""
    head = ["", *found.variants, "by training"]
    rows = []
    for metric, higher in found.higher_is_better.items():
        for name in found.trained.quality[metric]:
            label = name if name == metric else f"{metric}: {name}"
            values = [variant.quality.get(metric, {}).get(name) for variant in found.variants.values()]
            rows.append([f"{label} {'↑' if higher else '↓'}", *_values(values)])
    if found.trained.damage is not None:
        rows.append(["damage ↓", *_values([None, found.untrained.damage, found.trained.damage])])
    return head, rows


def _values(values: list[float | None]) -> list[str]:
    _, untrained, trained = values
    change = DASH if untrained is None or trained is None else percent(untrained, trained)
    return [*(DASH if value is None else f"{value:.4g}" for value in values), change]


def losses(found: Distillation) -> Lines:
    """Every loss as training began and ended."""
    rows = [
        [
            loss.name,
            DASH if loss.weight is None else f"{loss.weight:g}",
            f"{loss.first:.4g}",
            f"{loss.last:.4g}",
            percent(loss.first, loss.last) if min(loss.first, loss.last) > 0 else DASH,
            _in_words(loss.options),
        ]
        for loss in found.training.losses
    ]
    return ["loss", "weight", "first", "last", "change", "options"], rows


def _in_words(options: dict[str, object]) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    told = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in given.items()}
    return ", ".join(f"{name}: {value}" for name, value in told.items())


def training(found: Distillation) -> list[tuple[str, str]]:
    """How the student was trained, as two columns."""
    t = found.training
    return [
        ("Data", f"{t.data}, {plural(t.clips, 'clip')}"),
        ("Training", f"{plural(t.steps, 'step')} of {plural(t.batch_size, 'clip')}: {t.seen:,} clips seen"),
        ("Took", f"{seconds(t.seconds)}, {t.processes} process{'es' * (t.processes != 1)}"),
        ("Precision", f"weights {t.dtype} on {t.device}, mixed precision: {t.precision}"),
        ("Learning rate", f"up to {t.learning_rate:.3g}"),
        ("Average of weights", f"EMA with decay {t.ema:g}" if t.ema else "none"),
        ("Matched blocks", str(t.matched)),
    ]


def notes(found: Distillation) -> Iterator[str]:
    """How the numbers came about."""
    yield (
        "MACs: multiply-adds of one clip, denoiser only, counted operator by operator while it was made in "
        f"{plural(found.generation_steps, 'step')}."
    )
    if found.timing is not None:
        t = found.timing
        pairs = plural(len(t.denoiser.before_runs), "interleaved pair")
        yield f"Time: {plural(t.clips, 'clip')} at once, {t.steps} steps; medians of {pairs}."
    if found.clips:
        yield (
            f"Quality: {plural(found.clips, 'clip')} of {found.generation_steps} steps each, same prompts and noise; "
            "damage is the mean squared error to the teacher's clips."
        )
    over = plural(found.training.over, "step")
    yield f"Losses: before their weights; first and last are means over {over}."


def headline(found: Distillation) -> str:
    """One sentence: what the student lost, and how long it was trained."""
    plan, t = found.plan, found.training
    names = " + ".join(loss.name for loss in t.losses if loss.weight is not None)
    units = f"{plan.pruned} of {plural(len(plan.units), 'unit')} ({plan.goal})"
    chosen = f"chosen by method {plan.method}" + (f", criterion {plan.criterion}" if plan.ranked else "")
    return f"{plan.scope} pruned in {units}, {chosen}; then trained by {names} for {plural(t.steps, 'step')}."


def render(found: Distillation) -> RenderableType:
    """The tables for a terminal."""
    tables = [terminal_table(*part, left=["options"]) for part in _tables(found).values()]
    lines = [f"{name}: {text}" for name, text in training(found)]
    return Group(Text(headline(found)), *tables, *(Text(f"· {line}", style="dim") for line in (*notes(found), *lines)))


def to_markdown(found: Distillation) -> str:
    """The tables and the picture, and how they were made."""
    parts = [f"# Distilled: {found.source}", headline(found)]
    for title, lines in _tables(found).items():
        parts += [f"## {title}", markdown_table(*lines)]
        if title == "Losses":
            parts.append(f"![losses over steps]({FIGURE})")
    parts.append("\n".join(f"- {note}" for note in notes(found)))
    if found.samples:
        parts += ["## Samples", "\n".join(f"- [{path}]({path})" for path in found.samples)]
    facts = place(found.source, found.spec, found.date, found.machine, found.versions)
    parts += ["## Reproduce", f"```\n{found.command}\n```", markdown_table(("", ""), [*training(found), *facts])]
    return "\n\n".join(parts) + "\n"


def _tables(found: Distillation) -> dict[str, Lines]:
    """The tables that have a row, by title."""
    every = {
        "Size and work": models(found),
        "Time": time(found),
        "Quality": quality(found),
        "Losses": losses(found),
    }
    return {title: lines for title, lines in every.items() if lines[1]}
