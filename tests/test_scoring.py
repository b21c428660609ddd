"""Scores get what the criterion needs: removals are tried out where it ranks by that, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from f3core import engine, scoring
from f3core.adapter import Model
from f3core.errors import ScoresError, SpecError
from f3core.job import Job, resolve
from f3core.planning import make_plan
from f3core.registry import installed
from f3core.scores import Scores
from f3core.sites import Removal
from f3core.spec import load_spec

Write = Callable[..., Path]


def of(spec: Path, *overrides: str) -> tuple[Job, Model]:
    job = resolve(load_spec(spec, overrides), installed(), check_output=False)
    return job, engine.load(job)


def scored(job: Job, model: Model, **options: Any) -> Scores:
    plain = scoring.score(job, model, scoring.inputs_of(job, model), engine.silent)
    return scoring.completed(job, model, plain, engine.silent, **options)


def test_removals_are_tried_where_a_criterion_asks(tiny_spec: Write) -> None:
    job, model = of(tiny_spec(criterion="aas"))
    plain = scored(job, model)
    assert plain.impact is None
    with pytest.raises(ScoresError, match="hold the impact of no removal; add this one's: f3core score"):
        make_plan(of(tiny_spec(criterion="propagated_drift"))[0], plain)
    found = scored(job, model, criteria=["aas", "propagated_drift"]).impact
    assert found is not None
    assert found.damage.shape == (4, 1)  # four ranges of one step each; half of three prompts
    assert (found.damage > 0).all()
    assert (found.output_drift > 0).all()


def test_what_fits_is_not_tried_again(tiny_spec: Write) -> None:
    spec = tiny_spec(criterion="propagated_drift", step_ranges=2)
    job, model = of(spec, "calibrate.impact_prompts=2")
    scores = scored(job, model)
    assert scores.impact is not None
    assert scores.impact.damage.shape == (2, 2)

    def fail(*_: Any) -> None:
        raise AssertionError("tried again")

    assert scoring.completed(job, model, scores, fail) is scores
    other, _ = of(spec, "prune.removal=drop")
    again = scoring.completed(other, model, scores, engine.silent)
    assert again.impact is not None
    assert set(again.impact.removals.values()) == {Removal.DROP}
    assert not np.array_equal(again.impact.output_drift, scores.impact.output_drift)


def test_an_impact_of_another_removal_is_no_help_to_a_plan(tiny_spec: Write) -> None:
    job, model = of(tiny_spec(criterion="propagated_drift", removal="self_only"))
    scores = scored(job, model)
    other = resolve(load_spec(tiny_spec(criterion="propagated_drift", removal="drop")), installed(), check_output=False)
    with pytest.raises(ScoresError, match="impact of another removal of TA; add this one's: f3core score SPEC"):
        make_plan(other, scores)


def test_a_resumed_run_reads_nothing_of_another_removal(tiny_spec: Write, tmp_path: Path) -> None:
    def run(removal: str, output: str, resume: bool = False) -> Any:
        spec = tiny_spec(criterion="propagated_drift", removal=removal, ratio=0.5)
        return engine.apply(spec, output=tmp_path / output, resume=resume, listener=interrupt if not resume else listen)

    def listen(task: str, done: int, total: int) -> None:
        pass

    def interrupt(task: str, done: int, total: int) -> None:
        if task == "Trying removals" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("self_only", "one")
    resumed = run("drop", "one", resume=True).scores.impact
    spec = tiny_spec(criterion="propagated_drift", removal="drop", ratio=0.5)
    fresh = engine.apply(spec, output=tmp_path / "two").scores.impact
    assert resumed is not None
    assert fresh is not None
    np.testing.assert_allclose(resumed.damage, fresh.damage, rtol=1e-6)
    np.testing.assert_allclose(resumed.output_drift, fresh.output_drift, rtol=1e-6)


def test_more_step_ranges_than_steps_are_refused_at_their_line(tiny_spec: Write) -> None:
    job, model = of(tiny_spec(criterion="propagated_drift", step_ranges=9))
    with pytest.raises(SpecError, match=r"spec.yaml:4:\d+: a generation of 4 steps has no 9 step ranges"):
        scored(job, model)


def test_shards_are_completed_once_they_are_merged(
    tiny_spec: Write, f3core_cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    spec = tiny_spec(criterion="propagated_drift", axis="cell", step_ranges=2)
    shards = [tmp_path / f"shard-{i}.safetensors" for i in range(2)]
    for i, path in enumerate(shards):
        assert f3core_cli("score", spec, "--shard", f"{i}/2", "-o", path)[0] == 0
        assert Scores.load(path).impact is None
    given = [word for path in shards for word in ("--scores", path)]
    code, _, err = f3core_cli("plan", spec, *given)
    assert code == 1
    assert "add this one's: f3core score SPEC --scores FILE" in err
    whole = tmp_path / "whole.safetensors"
    code, out, _ = f3core_cli("score", spec, *given, "-o", whole)
    assert code == 0
    assert "3 prompts scored" in out
    code, out, _ = f3core_cli("plan", spec, "--scores", whole, "--json")
    assert code == 0
    assert "propagated_drift" in out
    assert f3core_cli("score", spec, *given, "--shard", "0/2")[0] == 2

    once = tmp_path / "once.safetensors"
    assert f3core_cli("score", spec, "-o", once)[0] == 0
    one, two = Scores.load(whole).impact, Scores.load(once).impact
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.damage, two.damage)


def test_a_plan_by_propagated_drift_prunes_what_moves_the_clip_least(tiny_spec: Write, tmp_path: Path) -> None:
    result = engine.apply(tiny_spec(criterion="propagated_drift", axis="cell", step_ranges=2, ratio=0.5))
    assert result.report.generation.predicted.total == result.report.generation.counted.total
    states = {frozenset(s for s, ranges in result.plan.gates().items() if i in ranges) for i in range(2)}
    assert result.report.plan.graphs == {"transformer": len(states)}
    assert f"{len(states)} graph" in (tmp_path / "run" / "report.md").read_text()
    scores = [unit.score for unit in result.plan.units]
    kept = [unit.score for unit in result.plan.units if not unit.pruned]
    assert max(unit.score for unit in result.plan.pruned) <= min(kept)
    assert sum(scores) == pytest.approx(float(np.sum(result.scores.impact.damage.mean(axis=1))))  # type: ignore[union-attr]
