"""The rank study: what it measures, and that it can be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from f3core import engine, study
from f3core.errors import SpecError
from f3core.spec import load_spec
from f3core.study_rows import CEILING, RankStudy

Write = Callable[..., Path]


def run(spec: Path, criteria: Sequence[str] = ("aas", "propagated_drift", "random"), **options: Any) -> RankStudy:
    given = {"axes": ["layer", "cell"], "shares": (0.25, 0.5), "seeds": (0, 1)} | options
    return study.rank_study(load_spec(spec), criteria, **given)


def test_a_study_measures_every_unit_and_criterion(tiny_spec: Write, tmp_path: Path) -> None:
    found = run(tiny_spec(step_ranges=2))
    assert [(ranking.axis, len(ranking.alone[0])) for ranking in found.axes] == [("layer", 4), ("cell", 8)]
    for ranking in found.axes:
        assert all(damage > 0 for alone in ranking.alone for damage in alone.values())
        assert ranking.criteria == ("aas", "propagated_drift", "random", CEILING)
        assert ranking.spearman[CEILING] == pytest.approx((1, 1))
        assert ranking.best in {"aas", "propagated_drift", "random"}
        for choice in ranking.choices:
            layers = found.axes[0].choices[0].saved / 0.25  # four equal layers, a quarter of which is one
            assert choice.saved >= choice.share * layers - 1e-9
            # one unit of four, at a quarter: nothing does less damage than the best unit alone
            if ranking.axis == "layer" and choice.share == 0.25:
                assert choice.damage >= min(ranking.alone[found.seeds.index(choice.seed)].values())
    written = RankStudy.model_validate_json((tmp_path / "run" / "rank_study.json").read_text())
    assert written == found
    text = (tmp_path / "run" / "rank_study.md").read_text()
    assert "## TA, axis cell: 8 units, 2 seeds" in text
    assert found.command in text
    assert found.command.endswith(
        "--criteria aas,propagated_drift,random --axes layer,cell --shares 0.25,0.5 --seeds 0,1"
    )
    assert (tmp_path / "run" / "rank_study.png").read_bytes()[:4] == b"\x89PNG"
    assert "torch" in found.versions


def test_finished_measurements_are_kept(tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_spec()

    def interrupt(task: str, done: int, total: int) -> None:
        if task.startswith("Seed 1, axis layer: units") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, axes=(), listener=interrupt)
    assert (tmp_path / "run.partial" / "unfinished" / "seed-0.json").exists()
    heard: list[str] = []
    pruned: list[Any] = []

    def prune(model: Any, plan: Any) -> Any:
        pruned.append(plan)
        return engine.prune(model, plan)

    monkeypatch.setattr(study, "prune", prune)
    found = run(spec, axes=(), resume=True, listener=lambda task, done, total: heard.append(task))
    assert found.seeds == (0, 1)
    assert not any(task.startswith("Seed 0") for task in heard)
    assert [len(plan.pruned) for plan in pruned].count(1) == 1  # of four units alone, three were known


def test_a_removal_that_saves_nothing_is_refused(tiny_spec: Write) -> None:
    with pytest.raises(SpecError, match="no unit saves any work"):
        run(tiny_spec(target="SA", removal="mask"), ["aas"], axes=(), seeds=(0,))


def test_an_unknown_criterion_is_refused_before_the_model_is_loaded(tiny_spec: Write, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'drift'"):
        run(tiny_spec(), criteria=["drft"])
    assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": ()}, "--seeds"),
        ({"seeds": (0, 0)}, "--seeds"),
        ({"shares": (1.5,)}, "--shares"),
        ({"axes": ("row",)}, "--axes"),
        ({}, "evaluate"),
    ],
)
def test_impossible_options_are_refused_before_the_model_is_loaded(
    tiny_spec: Write, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    spec = tiny_spec() if options else tiny_spec(evaluate="null")
    with pytest.raises(SpecError, match=said):
        study.rank_study(load_spec(spec), ["aas"], **options)
    assert not list(tmp_path.glob("run*"))
