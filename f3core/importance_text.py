"""A study of importance as tables, for the terminal, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from f3core.compare_rows import DAMAGE, figure_of
from f3core.csv_text import csv_text
from f3core.importance_rows import metric_of
from f3core.pace import how_timed
from f3core.report_text import DASH, Lines, markdown_table, place, plural, seconds, si, terminal_table
from f3core.stats import Figure

if TYPE_CHECKING:
    from f3core.importance_rows import Importance, MeasuredPlace


def measured(found: Importance, names: Sequence[str]) -> Lines:
    """How much worse figures of these names get without each place, and what that saves."""
    shares = ["MACs", "parameters", *(["seconds"] if found.seconds else [])]
    rows = [
        [
            "(unpruned)",
            *(_unpruned(found, name) for name in names),
            si(found.macs).strip(),
            si(found.parameters).strip(),
        ]
    ]
    if found.seconds:
        rows[0].append(seconds(found.seconds))
    for one in found.places:
        worse = (_signed(found.importance(one, name), found, name) for name in names)
        rows.append([one.name, *worse, *(_percent(share) for share in _shares(found, one))])
    return ["without", *(_head(found, name) for name in names), *(f"{share} saved" for share in shares)], rows


def _unpruned(found: Importance, name: str) -> str:
    if name == DAMAGE:
        return "0"
    return figure_of([figures[name] for figures in found.unpruned]).text(len(found.seeds) > 1)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace("-", "−")


def _head(found: Importance, name: str) -> str:
    if name == DAMAGE:
        return DAMAGE
    return f"{name} {'falls by' if found.higher_is_better[metric_of(name)] else 'rises by'}"


def _signed(figure: Figure, found: Importance, name: str) -> str:
    return figure.text(len(found.seeds) > 1, ".3g" if name == DAMAGE else "+.3g")


def _shares(found: Importance, one: MeasuredPlace) -> Iterator[float]:
    yield one.macs_saved / found.macs if found.macs else 0.0
    yield one.parameters_saved / found.parameters if found.parameters else 0.0
    if found.seconds and one.seconds_saved is not None:
        yield one.seconds_saved / found.seconds


def guesses(found: Importance) -> Lines:
    """What each criterion scores each place, means over seeds."""
    rows = [[one.name, *(Figure.of(one.proxies[name]).text(False) for name in found.criteria)] for one in found.places]
    return ["place", *found.criteria], rows


def agreements(found: Importance, names: Sequence[str]) -> Lines:
    """Rank correlations of criteria with importance by these figures, and of importance between seeds."""
    rows = [[criterion, *(_rank(found.agreement(criterion, name)) for name in names)] for criterion in found.criteria]
    if len(found.seeds) > 1:
        rows.append(["(another seed)", *(_rank(found.between_seeds(name)) for name in names)])
    return ["criterion", *names], rows


def _rank(value: float | None) -> str:
    return DASH if value is None else f"{value:+.2f}".replace("-", "−")


def staying(found: Importance) -> Lines:
    """What cannot go, and why."""
    return ["stays", "because"], [[name, why] for name, why in found.staying.items()]


def headline(found: Importance) -> str:
    """What was measured."""
    return f"{found.target} taken away at {plural(len(found.places), 'place')} of {found.source}, one at a time."


def notes(found: Importance) -> Iterator[str]:
    """How the numbers came about."""
    over = f"means ± standard deviations over seeds {', '.join(map(str, found.seeds))}"
    yield (
        f"Importance: how much worse a figure gets than the unpruned model's, of {plural(found.clips, 'clip')} of "
        f"{plural(found.steps, 'step')}, the same prompts and noise; {over if len(found.seeds) > 1 else 'one seed'}. "
        "Damage is the mean squared error to the unpruned model's clips."
    )
    yield f"MACs: of one clip, all {found.calibrated} calibrated steps, denoisers only; parameters of the denoisers."
    if timings := [one.timing for one in found.places if one.timing]:
        yield how_timed(timings, "the unpruned model and the model without a place")
    several = "; (another seed): the mean of those between importances under two seeds" if len(found.seeds) > 1 else ""
    yield f"Correlations: Spearman's, of means over seeds, over all places{several}."
    for name, why in found.unable.items():
        yield f"{name} is not among the criteria: {why}."


def render(found: Importance) -> RenderableType:
    """The tables for a terminal, with the telling figure of each metric alone."""
    names = found.telling
    parts: list[RenderableType] = [Text(headline(found)), terminal_table(*measured(found, names))]
    if found.criteria:
        parts += [Text("What criteria score"), terminal_table(*guesses(found))]
        parts += [Text("Rank correlation with importance"), terminal_table(*agreements(found, names))]
    if found.staying:
        parts.append(terminal_table(*staying(found), left=["because"]))
    return Group(*parts, *(Text(f"· {note}", style="dim") for note in notes(found)))


def to_markdown(found: Importance) -> str:
    """The tables and the picture, and how they were made."""
    parts = [
        f"# Importance: {found.target} of {found.source}",
        headline(found),
        "![importance over depth](importance.png)",
        "## Measured",
        markdown_table(*measured(found, found.figures)),
    ]
    if found.criteria:
        parts += ["## Rank correlation of criteria with importance", markdown_table(*agreements(found, found.figures))]
        parts += ["## What criteria score", markdown_table(*guesses(found))]
    if found.staying:
        parts += ["## What cannot go", markdown_table(*staying(found))]
    facts = place(found.source, found.spec, found.date, found.machine, found.versions)
    parts += [
        "\n".join(f"- {note}" for note in notes(found)),
        "## Reproduce",
        f"```\n{found.command}\n```",
        markdown_table(("", ""), facts),
    ]
    return "\n\n".join(parts) + "\n"


def to_csv(found: Importance) -> str:
    """One line a place, in MACs and seconds of one clip. ``*_importance``: how much worse the figure got, with its
    standard deviation over seeds, ``*_sd``."""
    return csv_text(_numbers(found, one) for one in found.places)


def _numbers(found: Importance, one: MeasuredPlace) -> Iterator[tuple[str, object]]:
    yield from (("place", one.name), ("sites", " ".join(one.sites)))
    yield from (("stage", one.stage), ("level", one.level), ("number", one.number), ("index", one.index))
    for name in found.figures:
        figure = found.importance(one, name)
        yield from ((f"{name}_importance", figure.mean), (f"{name}_sd", figure.sd))
    yield from (("macs_saved", one.macs_saved), ("parameters_saved", one.parameters_saved))
    yield "seconds_saved", one.seconds_saved
    yield from ((name, one.proxy(name)) for name in found.criteria)
