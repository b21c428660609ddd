"""What studies, saved scores and reports make of a spec whose target is whole blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import f3core
from f3core import attention_study, engine, study, sweep
from f3core.errors import PlanError, ScoresError, SpecError
from f3core.report import PlanSummary
from f3core.report_text import headline
from f3core.scores import Scores
from f3core.spec import load_spec

Write = Callable[..., Path]
BLOCKS: dict[str, Any] = {"target": "block", "method": "importance", "criterion": "change"}


def test_saved_scores_of_blocks_are_taken_up(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec("{num_clips: 1, timing_pairs: 0}", **BLOCKS)
    scores = Scores.load(engine.score_only(load_spec(spec))[0])
    result = f3core.apply(spec, scores=scores)
    assert not scores.prompts
    assert result.scores.impact is not None
    assert headline(result.report).startswith("2 blocks taken out whole, in 2 of 4 units (ratio 0.5); ")
    with pytest.raises(PlanError, match="these scores are of blocks, and the spec's target is TA"):
        f3core.apply(spec, scores=scores, overrides=["prune={}"], output=tmp_path / "other")


def test_a_report_of_listed_blocks_names_no_criterion(tiny_spec: Write) -> None:
    given = {"target": "block", "method": {"listed": {"blocks": ["blocks.0"]}}}
    result = f3core.apply(tiny_spec("{num_clips: 1, timing_pairs: 0}", **given))
    assert not PlanSummary.of(result.plan).ranked
    assert headline(result.report).endswith("; chosen by method listed.")


def test_a_sweep_over_blocks_scores_them_once(tiny_spec: Write, tmp_path: Path) -> None:
    heard: list[str] = []
    file = load_spec(tiny_spec("{num_clips: 1, timing_pairs: 0}", **BLOCKS), ["sweep={ratios: [0.5, 1], seeds: [0]}"])
    found = sweep.sweep(file, listener=lambda task, done, total: heard.append(f"{task} {done}/{total}"))
    assert heard.count("Trying removals 0/3") == 1
    assert found.axis == "layer"
    assert [file.name for file in (tmp_path / "run" / "scores").iterdir()] == ["seed-0-block.safetensors"]


@pytest.mark.parametrize("prune", [BLOCKS, {}])
def test_a_study_of_no_criteria_takes_those_that_can(tiny_spec: Write, prune: dict[str, Any]) -> None:
    file = load_spec(tiny_spec("{num_clips: 1, timing_pairs: 0}", **prune))
    criteria = study.rank_study(file, shares=(1.0,), seeds=(0,)).axes[0].criteria
    assert ("change" in criteria, "aas" in criteria, "measured" in criteria) == (bool(prune), not prune, False)


def test_a_study_ranks_by_the_spec_s_own_criterion_with_its_options(tiny_spec: Write, tmp_path: Path) -> None:
    own = {"measured": {"file": str(tmp_path / "nowhere.json")}}
    file = load_spec(tiny_spec("{num_clips: 1, timing_pairs: 0}", **{**BLOCKS, "criterion": own}))
    with pytest.raises(ScoresError, match=r"nowhere\.json"):
        study.rank_study(file, ["measured"], shares=(1.0,), seeds=(0,))


def test_attention_of_blocks_is_refused_before_anything_is_loaded(tiny_spec: Write) -> None:
    with pytest.raises(SpecError, match="has no attention of its own"):
        attention_study.attention(load_spec(tiny_spec(**BLOCKS)))
