"""A rank study to read: tables for the terminal, Markdown for the output folder."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from f3core.report_text import DASH, Lines, markdown_table, place, plural, terminal_table
from f3core.stats import Figure
from f3core.study_rows import AxisRanking, RankStudy

_BEST = "Best by mean Spearman with the damage of pruning each unit alone: "


def _correlations(ranking: AxisRanking) -> Lines:
    rows = []
    for name in ranking.criteria:
        found = ranking.correlation(name)
        seeds = ", ".join(DASH if v is None else f"{v:+.2f}".replace("-", "−") for v in ranking.spearman[name])
        rows.append([name, found.interval(within=1) if found else DASH, seeds])
    return ["criterion", "Spearman, mean [95 %]", "by seed"], rows


def _outcomes(study: RankStudy, ranking: AxisRanking, share: float) -> Lines:
    """Means over seeds at one share."""
    metrics = sorted(study.unpruned[0])
    rows = [["(unpruned)", "0", "0", *(f"{study.mean_unpruned(metric):.3g}" for metric in metrics)]]
    for name in ranking.criteria:
        mine = ranking.chosen(name, share)
        saved, damage = Figure.of(c.saved for c in mine), Figure.of(c.damage for c in mine)
        quality = (f"{Figure.of(c.quality[metric] for c in mine).mean:.3g}" for metric in metrics)
        rows.append([name, f"{100 * saved.mean:.1f} %", damage.text(len(mine) > 1), *quality])
    return ["criterion", "MACs saved", "damage", *metrics], rows


def _title(study: RankStudy, ranking: AxisRanking) -> str:
    units = plural(len(ranking.alone[0]), "unit")
    return f"{study.target}, axis {ranking.axis}: {units}, {plural(len(study.seeds), 'seed')}"


def render(study: RankStudy) -> RenderableType:
    """Tables for a terminal."""
    parts: list[RenderableType] = []
    for ranking in study.axes:
        parts += [Text(_title(study, ranking)), terminal_table(*_correlations(ranking))]
        for share in study.shares:
            parts += [Text(f"{share:g} of what can be saved"), terminal_table(*_outcomes(study, ranking, share))]
        parts.append(Text(f"{_BEST}{ranking.best}."))
    return Group(*parts)


def to_markdown(study: RankStudy) -> str:
    """The tables, how they were made, and the damage of every unit alone."""
    seeds = ", ".join(map(str, study.seeds))
    parts = [
        f"# Rank study: {study.target} of {study.source}",
        f"Seeds {seeds}; {plural(study.clips, 'clip')} of {plural(study.steps, 'step')} each.",
        "Damage is the mean squared error to the unpruned model's clips from the same noise. Spearman is with the "
        "damage of pruning each unit alone. Shares are of the MACs that pruning every unit saves; figures are means "
        "over seeds, ± their standard deviation.",
        "![Damage and quality against MACs saved](rank_study.png)",
        *(part for ranking in study.axes for part in _of_axis(study, ranking)),
        "## Reproduce",
        f"```\n{study.command}\n```",
        markdown_table(("", ""), place(study.source, study.spec, study.date, study.machine, study.versions)),
    ]
    return "\n\n".join(parts) + "\n"


def _of_axis(study: RankStudy, ranking: AxisRanking) -> Iterator[str]:
    yield f"## {_title(study, ranking)}"
    yield markdown_table(*_correlations(ranking))
    yield f"{_BEST}**{ranking.best}**."
    for share in study.shares:
        yield f"### {share:g} of what can be saved"
        yield markdown_table(*_outcomes(study, ranking, share))
    if not ranking.alike:
        return  # a cell of one name covers other steps under another seed
    yield "<details><summary>Every unit alone</summary>"
    units = [(name, f"{Figure.of(alone[name] for alone in ranking.alone).mean:.3g}") for name in ranking.alone[0]]
    yield markdown_table(("unit pruned alone", "mean damage"), units)
    yield "</details>"
