"""An `AttentionStudy` in words and tables, on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from f3core.masses import short
from f3core.report_text import DASH, LONG_TABLE, Lines, markdown_table, place, plural, si, terminal_table, times
from f3core.sites import AttentionKind, PruningAxis
from f3core.stats import Figure, spread_over

if TYPE_CHECKING:
    from f3core.attention_study import AttentionStudy, Trend

CLEAR, SLIGHT = 0.7, 0.3
"""Correlations of at least so much are called a trend, or a slight one."""


def title(study: AttentionStudy) -> str:
    """What the picture shows."""
    over = "layers" if study.axis is PruningAxis.LAYER else "denoising steps"
    return f"Attention by kind over {over}; {plural(study.prompts, 'prompt')}, {spread_over(study.seeds)}"


def statements(study: AttentionStudy) -> Iterator[str]:
    """What the numbers say, each with its number."""
    for trend in study.trends:
        if trend.kind is AttentionKind.TEMPORAL:
            over = "with depth" if trend.axis is PruningAxis.LAYER else "as denoising goes on"
            first, last = (_percent(end.mean) for end in trend.ends)
            yield (
                f"TA's AAS {_verb(trend.mass)} {over}: Spearman {_rho(trend.mass)} over {_places(trend)}; its share of "
                f"a query's attention is {first} in the first and {last} in the last (Spearman {_rho(trend.share)})."
            )
    yield from _between_frames(study)


def _between_frames(study: AttentionStudy) -> Iterator[str]:
    mean = _mean(study.nearness)
    if mean is None:
        yield "All pairs of frames that are seen get the same attention, or there is no pair of frames."
        return
    if mean <= -SLIGHT:
        said = "Nearer frames get more attention" if mean <= -CLEAR else "Nearer frames get slightly more attention"
    else:
        said = "Nearer frames do not get more attention" if mean < SLIGHT else "Nearer frames get less attention"
    of, pairs = "share", "all pairs of frames"
    if study.unseen:
        of = "share, as a multiple of even attention,"
        pairs = f"the {_percent(1 - study.unseen)} of pairs that are seen"
    yield (
        f"{said}: Spearman of the {of} with the distance {_rho(study.nearness)} over {pairs}; it is "
        f"negative at {study.nearer} of {study.sites} sites that hold TA."
    )
    count = len(study.frame_map)
    text = 1 - sum(sum(row) for row in study.frame_map) / count
    names = {0: "its own frame", 1: "a neighbouring one", count - 1: "the farthest"}
    shares = [(name, share) for i, name in names.items() if (share := study.by_distance[i])]
    first, *others = (f"{name} {_percent(share.mean)}" for name, share in shares)
    told = ", ".join([f"{first} of its attention", *others, *([f"text {_percent(text)}"] if text > 5e-4 else [])])
    if not study.unseen:
        even = f"uniform attention to {count} frames would give each {_percent(1 / count)}"
        yield f"At these sites a query gives {told}; {even}."
        return
    multiples = ", ".join(f"{name} {times(found.mean)}" for i, name in names.items() if (found := study.over_even[i]))
    yield (
        f"At these sites a query gives {told}, where it sees them; as multiples of even attention to the frames that "
        f"it sees, {multiples}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _verb(rho: Sequence[float | None]) -> str:
    mean = _mean(rho)
    if mean is None:
        return "does not change"
    if abs(mean) < SLIGHT:
        return "neither rises nor falls"
    return ("falls" if mean < 0 else "rises") + ("" if abs(mean) >= CLEAR else " slightly")


def _rho(rho: Sequence[float | None]) -> str:
    known = [value for value in rho if value is not None]
    return Figure.of(known).text(len(known) > 1, "+.2f") if known else DASH


def _places(trend: Trend) -> str:
    return plural(trend.places, "layer" if trend.axis is PruningAxis.LAYER else "step")


def parts(study: AttentionStudy) -> Lines:
    """Score and share of every kind in every layer or step."""
    first = "layer" if study.axis is PruningAxis.LAYER else "noise level"
    head = [first, *(f"{kind} score" for kind in study.kinds), *(f"{kind} share" for kind in study.kinds)]
    several = len(study.seeds) > 1
    names = [part.name for part in study.parts]
    if study.axis is PruningAxis.LAYER:
        names = short(names)
    rows = []
    for name, part in zip(names, study.parts, strict=True):
        scores = [si(part.mass[kind].mean).strip() for kind in study.kinds]
        shares = [part.share[kind].text(several, ".3f") if kind in part.share else DASH for kind in study.kinds]
        rows.append([name, *scores, *shares])
    return head, rows


def trends(study: AttentionStudy) -> Lines:
    """Spearman of every kind with depth and with progress."""
    head = ["kind", "over", "score", "share of a query"]
    return head, [[str(t.kind), _places(t), _rho(t.mass), _rho(t.share)] for t in study.trends]


def distances(study: AttentionStudy) -> Lines:
    """Mean share by distance between frames, and against even attention where frames see different numbers of them."""
    several = len(study.seeds) > 1
    columns = [study.by_distance, *([study.over_even] if study.unseen else [])]
    rows = []
    for i, found in enumerate(zip(*columns, strict=True)):
        rows.append([f"{i}" if i else "0 (own frame)", *(f.text(several, ".3f") if f else DASH for f in found)])
    return ["distance", "share of a query, each frame", "over even attention"][: 1 + len(columns)], rows


def notes(study: AttentionStudy) -> Iterator[str]:
    """How the numbers came about."""
    seeds = ", ".join(map(str, study.seeds))
    spread = "means ± standard deviations over seeds" if len(study.seeds) > 1 else "seed"
    sample = "every query" if study.query_stride == 1 else f"every {study.query_stride}th query of a frame"
    yield (
        f"{plural(study.prompts, 'prompt')} of {study.steps} steps, {spread} {seeds}, {sample}. Score: the Aggregate "
        "Attention Score, attention mass summed over prompts, queries and heads. Share: the part of one query's "
        "attention, at the sites that pay any to that kind."
    )
    if study.unseen:
        yield (
            f"{_percent(study.unseen)} of the pairs of frames are never seen at their site; they are left out "
            "between frames. Even attention: the same to every frame that the query sees."
        )
    yield (
        f"A trend is called one from a Spearman correlation of ±{CLEAR} with the place of the layer or step on, slight "
        f"from ±{SLIGHT}."
    )


def render(study: AttentionStudy) -> RenderableType:
    """Tables and statements for a terminal."""
    tables = [terminal_table(*lines) for lines in (parts(study), trends(study), distances(study)) if lines[1]]
    said = [Text(f"→ {statement}", style="bold") for statement in study.statements]
    return Group(Text(title(study)), *tables, *said, *(Text(f"· {note}", style="dim") for note in notes(study)))


def to_markdown(study: AttentionStudy) -> str:
    """The picture, what it says, and the tables behind it."""
    table = markdown_table(*parts(study))
    if len(study.parts) > LONG_TABLE:
        table = f"<details><summary>All {len(study.parts)}</summary>\n\n{table}\n\n</details>"
    model = f"{study.source} (adapter {study.adapter})"
    found = [
        f"# Attention: {study.source}",
        "\n".join(f"- {statement}" for statement in study.statements),
        f"![{title(study)}](attention.png)",
        f"## By {'layer' if study.axis is PruningAxis.LAYER else 'denoising step'}",
        table,
        *(["## Trends", markdown_table(*trends(study))] if study.trends else []),
        "## Between frames",
        markdown_table(*distances(study)),
        "\n".join(f"- {note}" for note in notes(study)),
        "## Reproduce",
        f"```\n{study.command}\n```",
        markdown_table(("", ""), place(model, study.spec, study.date, study.machine, study.versions)),
    ]
    return "\n\n".join(found) + "\n"
