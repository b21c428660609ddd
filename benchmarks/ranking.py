"""The tables of benchmarks/results/ranking.md, from finished rank studies.

    f3core rank-study specs/ranking/wan.yaml ...          # see ranking.md for the commands
    python benchmarks/ranking.py runs/ranking_wan runs/ranking_cogvideo runs/ranking_tune_a_video

Prints Markdown: how each criterion's scores correlate with the damage of pruning every unit alone, and what its choice
of units does at half of the MACs that can be saved; means over seeds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from f3core.report_text import DASH, markdown_table
from f3core.stats import Figure, spearman
from f3core.study_rows import CEILING, AxisRanking, RankStudy

SHARE = 0.5


def correlations(studies: Sequence[RankStudy]) -> str:
    """One row a criterion, one column an axis of a study."""
    columns = [(study, ranking) for study in studies for ranking in study.axes]
    head = ["criterion", *(f"{study.source.partition(':')[2]}, {r.axis} ({len(r.alone[0])})" for study, r in columns)]
    rows = []
    for name in columns[0][1].criteria:
        found = [ranking.correlation(name) for _, ranking in columns]
        rows.append([f"`{name}`", *(DASH if figure is None else figure.interval(within=1) for figure in found)])
    return markdown_table(head, [row for row in rows if row[0] != f"`{CEILING}`"])


def agreement(ranking: AxisRanking) -> str:
    """How well the damage of units alone agrees between seeds: what no criterion can be expected to beat."""
    if not ranking.alike:
        return DASH
    values = [np.array(list(alone.values())) for alone in ranking.alone]
    found = [c for a, b in itertools.combinations(values, 2) if (c := spearman(a, b)) is not None]
    return f"{np.mean(found):+.2f}" if found else DASH


def outcomes(study: RankStudy, ranking: AxisRanking, right: str) -> list[list[str]]:
    """Of each criterion, at `SHARE` of what can be saved."""
    rows = []
    for name in ranking.criteria:
        mine = ranking.chosen(name, SHARE)
        saved, damage = Figure.of(c.saved for c in mine).mean, Figure.of(c.damage for c in mine)
        all_right = Figure.of(c.quality[right] for c in mine).mean
        frechet = Figure.of(c.quality["frechet_video"] for c in mine).mean
        cells = [f"{100 * saved:.1f} %", damage.text(True, ".2g"), f"{100 * all_right:.0f} %", f"{frechet:.1f}"]
        rows.append([ranking.axis, f"`{name}`", *cells])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    texts = [(folder / "rank_study.json").read_text(encoding="utf-8") for folder in options.folders]
    studies = [RankStudy.model_validate_json(text) for text in texts]
    right = "text_accuracy.all"
    print("## Spearman with the damage of pruning each unit alone: mean [95 %] (units)\n")
    print(correlations(studies), "\n")
    for study in studies:
        agreed = ", ".join(f"{ranking.axis} {agreement(ranking)}" for ranking in study.axes)
        print(f"{study.source}: the damages themselves agree between seeds by {agreed}.\n")
    for study in studies:
        print(f"## {study.source}, {SHARE:g} of the MACs that pruning every unit saves\n")
        unpruned = (f"{100 * study.mean_unpruned(right):.0f} %", f"{study.mean_unpruned('frechet_video'):.1f}")
        rows = [["", "(unpruned)", "0", "0", *unpruned]]
        for ranking in study.axes:
            rows += outcomes(study, ranking, right)
        print(markdown_table(["axis", "criterion", "MACs saved", "damage", "all right", "Fréchet"], rows), "\n")


if __name__ == "__main__":
    main()
