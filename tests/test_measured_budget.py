"""Budgets that are measured, on a tiny real pipeline: met, recorded, refused with the best there is, and resumed."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import f3core
from f3core import engine, evaluate
from f3core.budget import Tried
from f3core.errors import PlanError, SpecError
from f3core.evaluate import PairedTiming, Timing
from f3core.hookspecs import Entry, hookimpl
from f3core.job import resolve
from f3core.measured_budget import TASK, meet
from f3core.metric import Batch, Metric
from f3core.plan import PruningPlan
from f3core.planning import make_plan
from f3core.registry import Registry
from f3core.report import load as load_report
from f3core.report import render, to_markdown
from f3core.scores import Scores
from f3core.spec import load_spec

Write = Callable[..., Path]
SLOWER = 1.2
EVALUATE = "{num_clips: 2, timing_pairs: 1, metrics: [shade]}"


class Shade(Metric):
    """Its figures move apart as soon as clips change, so one of them falls whatever pruning does."""

    name = "shade"

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        (batch,) = clips
        light = float(batch.clips.double().mean())
        return {"light": light, "dark": 1 - light}


class Gloom(Shade):
    name = "gloom"
    higher_is_better = False


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.load_entry_points()
    entries = [Entry("shade", f"{__name__}:Shade"), Entry("gloom", f"{__name__}:Gloom")]
    made.register(types.SimpleNamespace(f3core_metrics=hookimpl(lambda: entries)), "mine")
    return made


@pytest.fixture
def timed_by_macs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Denoisers whose seconds fall by 0.8 of the MACs they save, on a machine that slows down from pair to pair; notes
    every share timed."""
    heard: list[float] = []

    def timing(adapter: Any, before: Any, after: Any, prompts: Any, **_: Any) -> PairedTiming:
        share = after.transformer.f3_plan.macs_share
        heard.append(share)
        seconds = SLOWER ** (len(heard) - 1)
        found = Timing.of([seconds], [seconds * (1 - 0.8 * (1 - share))])
        return PairedTiming(clips=1, steps=4, calls=8, denoiser=found, end_to_end=found)

    monkeypatch.setattr(evaluate, "paired_timing", timing)
    return heard


def speedup_of(share: float) -> float:
    return 1 / (1 - 0.8 * (1 - share))


@pytest.fixture
def scored(tiny_spec: Write, tmp_path: Path) -> Scores:
    """Scores of the tiny pipeline, and the share of MACs that stays when every cell goes."""
    result = f3core.apply(tiny_spec("null", axis="cell", criterion="drift"), output=tmp_path / "scored")
    return result.scores


@pytest.fixture
def least(tiny_spec: Write, scored: Scores, tmp_path: Path) -> float:
    spec = tiny_spec("null", axis="cell", criterion="drift", ratio=1.0)
    return f3core.apply(spec, scores=scored, output=tmp_path / "all").plan.macs_share


def spec_for(tiny_spec: Write, evaluate: str = EVALUATE, **budget: object) -> Path:
    return tiny_spec(evaluate, axis="cell", criterion="drift", budget=budget)


def test_a_speedup_is_predicted_measured_and_recorded(
    tiny_spec: Write, scored: Scores, least: float, timed_by_macs: list[float], registry: Registry
) -> None:
    target = round(1 + 0.5 * (speedup_of(least) - 1), 4)
    result = f3core.apply(spec_for(tiny_spec, speedup=target), scores=scored, registry=registry)
    report, tried = result.report, result.report.tried
    assert timed_by_macs[0] == pytest.approx(least)  # what calibrates the prediction
    assert speedup_of(result.plan.macs_share) >= target
    assert len(timed_by_macs) == len(tried) + 1  # once more for the report
    assert [one.macs for one in tried] == sorted((one.macs for one in tried), reverse=True)
    (chosen,) = [one for one in tried if one.chosen]
    assert chosen.macs == result.plan.macs_share
    assert chosen.measured["speed-up"] == pytest.approx(report.timing.denoiser.speedup)
    assert str(result.plan.budget) == f"speed-up ≥ {target:g}×"
    assert result.plan.ratio == len(result.plan.pruned) / len(result.plan.units)
    assert load_report(result.folder) == report
    assert "On the way to the budget" in to_markdown(report)
    assert "● " in to_markdown(report)
    assert render(report)
    assert not any("timings vary" in warning for warning in report.warnings)


def test_a_speedup_out_of_reach_is_refused_with_the_best(
    tiny_spec: Write, scored: Scores, least: float, timed_by_macs: list[float], registry: Registry, tmp_path: Path
) -> None:
    best = int(speedup_of(least) * 100) / 100
    with pytest.raises(PlanError, match=rf"speed-up measured with every unit pruned is {best:.2f}×"):
        f3core.apply(spec_for(tiny_spec, speedup=9.0), scores=scored, registry=registry)
    assert not list(tmp_path.glob("run*"))
    assert len(timed_by_macs) == 1


def test_milliseconds_are_the_speedup_that_the_unpruned_model_lacks(
    tiny_spec: Write, scored: Scores, timed_by_macs: list[float], registry: Registry
) -> None:
    model = engine.load(resolve(load_spec(spec_for(tiny_spec, macs=0.9)), registry, check_output=False))

    def met(**budget: float) -> tuple[PruningPlan, tuple[Tried, ...]]:
        timed_by_macs.clear()
        job = resolve(load_spec(spec_for(tiny_spec, **budget)), registry, check_output=False)
        return meet(job, model, make_plan(job, scored), engine.prune, engine.silent)

    with pytest.raises(PlanError, match=r"with every unit pruned \S+ ms are measured, of 1000 ms unpruned") as refused:
        met(milliseconds=1.0)
    assert "allow more, or measure at the size" in str(refused.value)
    (least,) = timed_by_macs
    offered = float(str(refused.value).partition("every unit pruned ")[2].partition(" ms")[0])
    assert met(milliseconds=offered)[0].macs_share == pytest.approx(least)

    asked = round(1000 / (1 + 0.5 * (speedup_of(least) - 1)), 3)
    plan, tried = met(milliseconds=asked)
    assert timed_by_macs[0] == least
    assert len(timed_by_macs) == len(tried) - 1  # the unpruned model is measured beside the others
    assert (tried[0].units, tried[0].measured, tried[0].verdict) == (
        0, {"milliseconds": 1000.0, "speed-up": 1.0}, "unpruned"
    )  # fmt: skip
    for one in tried[1:]:
        assert one.measured["milliseconds"] == pytest.approx(1000 / speedup_of(one.macs))  # though the machine slows
        assert (one.verdict == "too slow") == (one.measured["milliseconds"] > asked)
    (chosen,) = [one for one in tried if one.chosen]
    assert chosen.measured["milliseconds"] <= asked
    assert (chosen.macs, str(plan.budget)) == (plan.macs_share, f"denoiser ≤ {asked:g} ms")
    assert met(speedup=1000 / asked)[0].units == plan.units

    plan, tried = met(milliseconds=1000.0)
    assert not plan.pruned
    assert [(one.verdict, one.chosen) for one in tried] == [("unpruned", True), ("more than asked for", False)]


def test_a_given_pipeline_meets_a_budget_and_stays_as_it_was(
    tiny_spec: Write, timed_by_macs: list[float], registry: Registry
) -> None:
    from tiny_wan import CALL, pipeline

    pipe = pipeline(layers=4)
    keys = list(pipe.transformer.state_dict())
    overrides = [f"model.call={CALL}"]
    result = f3core.apply(spec_for(tiny_spec, speedup=1.001), pipeline=pipe, registry=registry, overrides=overrides)
    assert result.plan.pruned
    assert list(pipe.transformer.state_dict()) == keys


def test_a_metric_allows_all_nothing_or_some(
    tiny_spec: Write, scored: Scores, registry: Registry, tmp_path: Path
) -> None:
    def run(name: str, drop: float, metric: str = "shade") -> Any:
        spec = spec_for(tiny_spec, metric=metric, max_drop=drop)
        return f3core.apply(
            spec,
            scores=scored,
            registry=registry,
            output=tmp_path / name,
            overrides=["evaluate.timing_pairs=0", "evaluate.metrics=[shade, gloom]"],
        )

    every = run("every", 1.0)
    assert len(every.plan.pruned) == len(every.plan.units)
    before = every.report.quality["shade"].before
    unpruned = every.report.tried[0]
    assert (unpruned.units, unpruned.measured, unpruned.verdict) == (0, before, "unpruned")
    assert every.report.tried[-1].measured == every.report.quality["shade"].after  # same noise, same figures

    with pytest.raises(PlanError, match=r"even with the least pruned \(.*steps\[\d\]; 0\.9\d+ of the MACs stay\) "):
        run("none", 0.0)
    assert not list(tmp_path.glob("none*"))

    moves = sorted({abs(one.measured["light"] - before["light"]) for one in every.report.tried if one.units})
    some = run("some", (moves[0] + moves[-1]) / 2) if len(moves) > 1 else every
    assert 0 < len(some.plan.pruned) <= len(every.plan.pruned)
    drop = some.report.quality["shade"].before["light"] - some.report.quality["shade"].after["light"]
    assert abs(drop) <= (moves[0] + moves[-1]) / 2


def test_one_figure_may_be_named_and_lower_may_be_better(
    tiny_spec: Write, scored: Scores, registry: Registry, tmp_path: Path
) -> None:
    refused: dict[str, str] = {}

    def outcome(metric: str) -> list[str]:
        evaluate = "{num_clips: 1, timing_pairs: 0, metrics: [shade, gloom]}"
        spec = spec_for(tiny_spec, evaluate, metric=metric, max_drop=0)
        try:
            result = f3core.apply(spec, scores=scored, registry=registry, output=tmp_path / metric)
        except PlanError as error:
            refused[metric] = str(error)
            return []
        assert all(set(one.measured) == {metric.partition(".")[2]} for one in result.report.tried)
        return [unit.name for unit in result.plan.pruned]

    # light falls as dark rises, and for the second metric lower is better
    light, dark = outcome("shade.light"), outcome("shade.dark")
    assert outcome("gloom.dark") == light
    assert light or dark  # one of the two rises at the first candidate
    for metric, said in refused.items():
        assert f"{metric.partition('.')[2]} {'falls' if metric.startswith('shade') else 'rises'} by " in said


def test_a_figure_that_the_metric_lacks_is_named_at_its_line(
    tiny_spec: Write, scored: Scores, registry: Registry
) -> None:
    spec = spec_for(tiny_spec, metric="shade.lihgt", max_drop=0.1)
    with pytest.raises(SpecError, match=r"spec\.yaml:\d+:\d+: shade has no figure 'lihgt'; did you mean 'light'\?"):
        f3core.apply(spec, scores=scored, registry=registry)


def written(folder: Path) -> dict[Path, int]:
    """When each scored prompt was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "run.partial").rglob("prompt-*.safetensors")}


def test_scores_outlive_a_budget_that_was_refused(
    tiny_spec: Write, timed_by_macs: list[float], registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match="cannot be met"):
        f3core.apply(spec_for(tiny_spec, speedup=9.0), registry=registry)
    kept = written(tmp_path)
    assert len(kept) == 3
    heard: list[dict[Path, int]] = []
    result = f3core.apply(
        spec_for(tiny_spec, speedup=1.001),
        resume=True,
        registry=registry,
        listener=lambda title, done, total: heard.append(written(tmp_path)) if title == TASK else None,
    )
    assert result.plan.pruned
    assert heard[0] == kept
