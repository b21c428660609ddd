"""The whole line, spec to report, on a tiny real pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from f3core_diffusers.wan import WanAdapter
from tiny_wan import CALL, pipeline

import f3core
from f3core import engine
from f3core.errors import F3Error, ModelError, OutputError, ScoresError, SpecError
from f3core.report import load as load_report
from f3core.scores import Scores

Write = Callable[..., Path]


def clips(pipe: Any) -> torch.Tensor:
    return WanAdapter().generate(pipe, ["a red cat"], steps=3, seeds=[5], call=CALL)


@pytest.mark.parametrize(
    "prune",
    [
        {"axis": "layer", "criterion": "aas"},
        {"axis": "timestep", "criterion": "drift"},
        {"axis": "cell", "criterion": "aas_mean", "step_ranges": 2},
        {"removal": "drop", "ratio": 0.25},
        {"target": "CA"},
        {"target": "SA"},
    ],
    ids=lambda prune: "-".join(map(str, prune.values())),
)
def test_apply_predicts_what_it_counts_and_saves_what_it_holds(tiny_spec: Write, prune: dict[str, Any]) -> None:
    result = f3core.apply(tiny_spec(**prune))
    report = result.report
    assert report.generation.predicted.total == report.generation.counted.total
    assert report.generation.counted.total <= report.generation.before.total
    assert not any("counted" in warning for warning in report.warnings)
    assert load_report(result.folder) == report

    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(result.folder / "model")
    assert torch.equal(clips(loaded), clips(result.pipeline))
    assert loaded.transformer.state_dict().keys() == result.pipeline.transformer.state_dict().keys()


def test_output_holds_all_it_promises(tiny_spec: Write) -> None:
    spec = tiny_spec(ratio=0.5)
    folder = f3core.apply(spec, overrides=["evaluate.timing_pairs=1"]).folder
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "model",
        "plan.json",
        "scores.safetensors",
        "spec.yaml",
        "report.json",
        "report.md",
        "attention.png",
        "before_after.gif",
        "before_after.mp4",
    }
    assert (folder / "spec.yaml").read_bytes() == spec.read_bytes()
    assert not folder.with_name("run.partial").exists()


def test_dropped_parameters_leave_the_model(tiny_spec: Write) -> None:
    result = f3core.apply(tiny_spec(removal="drop", ratio=0.5, seed=1), overrides=["evaluate=null"])
    gone = [site for unit in result.plan.pruned for site in unit.sites]
    keys = result.pipeline.transformer.state_dict().keys()
    assert len(gone) == 2
    for site in gone:
        assert not any(key.startswith(site.removeprefix("transformer.") + ".") for key in keys)
    assert result.report.parameters.after < result.report.parameters.before
    assert result.report.disk.after < result.report.disk.before


def test_a_given_pipeline_is_left_as_it_was(tiny_spec: Write) -> None:
    pipe = pipeline(layers=4)
    before, keys = clips(pipe), list(pipe.transformer.state_dict())
    result = f3core.apply(tiny_spec(), pipeline=pipe, overrides=["evaluate=null", f"model.call={CALL}"])
    assert torch.equal(clips(pipe), before)
    assert list(pipe.transformer.state_dict()) == keys
    assert not torch.equal(clips(result.pipeline), before)
    shared = result.pipeline.transformer.proj_out.weight
    assert shared.data_ptr() == pipe.transformer.proj_out.weight.data_ptr()


def test_ratio_zero_is_the_identity(tiny_spec: Write) -> None:
    result = f3core.apply(tiny_spec(ratio=0.0))
    assert result.report.damage == 0.0
    assert result.report.generation.counted.total == result.report.generation.before.total


def test_a_ratio_is_changed_without_scoring_again(tiny_spec: Write, tmp_path: Path) -> None:
    first = f3core.apply(tiny_spec(ratio=0.25), overrides=["evaluate=null"])
    titles: list[str] = []
    second = f3core.apply(
        tiny_spec(ratio=0.75),
        scores=Scores.load(first.folder / "scores.safetensors"),
        output=tmp_path / "second",
        overrides=["evaluate=null"],
        listener=lambda title, done, total: titles.append(title),
    )
    assert "Scoring prompts" not in titles
    assert {u.name for u in first.plan.pruned} < {u.name for u in second.plan.pruned}
    assert len(second.plan.pruned) == 3


class Interrupt:
    """Raises after so many prompts, as a key press would."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.heard: list[tuple[str, int]] = []

    def __call__(self, title: str, done: int, total: int) -> None:
        if title != "Scoring prompts" or not done:
            return
        self.heard.append((title, done))
        if len(self.heard) == self.after:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_bits(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec()
    with pytest.raises(KeyboardInterrupt):
        f3core.apply(spec, listener=Interrupt(after=2), overrides=["evaluate=null"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(OutputError, match="--resume"):
        f3core.apply(spec, overrides=["evaluate=null"])
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "run.partial").rglob("prompt-*.safetensors")}
    assert len(kept) == 2
    with pytest.raises(ScoresError, match="of another calibration"):
        f3core.apply(spec, resume=True, overrides=["evaluate=null", "calibrate.seed=3"])
    resumed = f3core.apply(spec, resume=True, overrides=["evaluate=null"])
    whole = f3core.apply(spec, output=tmp_path / "whole", overrides=["evaluate=null"])
    for index, one in whole.scores.prompts.items():
        for name in one.FIELDS:
            assert np.array_equal(getattr(one, name), getattr(resumed.scores.prompts[index], name)), name


def test_what_comes_after_scoring_may_change_before_a_run_goes_on(tiny_spec: Write, tmp_path: Path) -> None:
    """Hours of scoring survive a slip in a later section."""
    spec = tiny_spec()
    with pytest.raises(KeyboardInterrupt):
        f3core.apply(spec, listener=Interrupt(after=3), overrides=["evaluate=null"])
    heard = Interrupt(after=-1)
    result = f3core.apply(spec, resume=True, overrides=["evaluate=null", "prune.ratio=0.25"], listener=heard)
    assert len(result.plan.pruned) == 1
    assert not (result.folder / "unfinished").exists()


def test_scores_of_another_model_are_refused_on_resume(tiny_spec: Write) -> None:
    spec, one, other = tiny_spec(), pipeline(layers=4), pipeline(layers=4)
    with torch.no_grad():
        other.transformer.blocks[0].attn1.to_q.weight.mul_(3)
    with pytest.raises(KeyboardInterrupt):
        f3core.apply(spec, pipeline=one, listener=Interrupt(after=2), overrides=[f"model.call={CALL}"])
    with pytest.raises(ScoresError, match="of another calibration"):
        f3core.apply(spec, pipeline=other, resume=True, overrides=[f"model.call={CALL}"])


def test_given_scores_must_be_of_this_calibration_and_whole(tiny_spec: Write, tmp_path: Path) -> None:
    file = f3core.load_spec(tiny_spec())
    part = engine.score_only(file, output=tmp_path / "part", shard=(0, 2))[1]
    with pytest.raises(ScoresError, match="lack 1 of 3 prompts"):
        f3core.apply(file, scores=part)
    for override, key in (("calibrate.steps=5", "steps"), (f"model.call={CALL | {'num_frames': 9}}", "call")):
        with pytest.raises(ScoresError, match=f"differs in: .*{key}"):
            f3core.apply(file, scores=part, overrides=[override])


def test_two_runs_do_not_share_a_folder(tiny_spec: Write) -> None:
    spec = tiny_spec()

    def second(title: str, done: int, total: int) -> None:
        with pytest.raises(OutputError, match="another process"):
            f3core.apply(spec, resume=True)
        assert spec.with_name("run.partial").is_dir()  # the one that was refused removes nothing
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        f3core.apply(spec, listener=second)


def test_dry_run_writes_nothing(tiny_spec: Write, tmp_path: Path) -> None:
    plan = engine.plan_only(f3core.load_spec(tiny_spec()))
    assert len(plan.pruned) == 2
    assert not list(tmp_path.glob("run*"))


def test_shards_scored_apart_give_the_plan_of_the_whole(tiny_spec: Write, tmp_path: Path) -> None:
    file = f3core.load_spec(tiny_spec())
    whole = engine.score_only(file, output=tmp_path / "whole")[1]
    parts = [engine.score_only(file, output=tmp_path / f"part{i}", shard=(i, 2))[1] for i in (1, 0)]
    assert engine.make_plan(engine.resolve(file, engine.installed()), parts[0].merge(parts[1])) == engine.make_plan(
        engine.resolve(file, engine.installed()), whole
    )
    with pytest.raises(OutputError, match="not overwritten"):
        engine.score_only(file, output=tmp_path / "whole")


def test_what_cannot_work_is_said(tiny_spec: Write, tmp_path: Path) -> None:
    result = f3core.apply(tiny_spec(), overrides=["evaluate=null"])
    with pytest.raises(SpecError, match="not overwritten"):
        f3core.apply(tiny_spec())
    with pytest.raises(ModelError, match="pruned already"):
        f3core.apply(
            tiny_spec(), output=tmp_path / "b", overrides=["evaluate=null", f"model.source={result.folder / 'model'}"]
        )
    with pytest.raises(ModelError, match="must not set num_inference_steps"):
        f3core.apply(tiny_spec(), output=tmp_path / "c", overrides=["model.call={num_inference_steps: 3}"])
    with pytest.raises(ModelError, match=r"see model\.call"):
        f3core.apply(tiny_spec(), output=tmp_path / "c", overrides=["model.call={height: 17}"])
    with pytest.raises(ModelError, match="no component of object"):
        f3core.apply(tiny_spec(), output=tmp_path / "d", pipeline=object())
    with pytest.raises(SpecError, match="can lose TA by mask"):
        f3core.apply(tiny_spec(removal="mask"), output=tmp_path / "d", pipeline=pipeline())
    assert issubclass(ModelError, F3Error)
    assert not list(tmp_path.glob("[bcd]*"))


def test_options_of_metrics_are_refused_before_the_model_is_loaded(
    tiny_spec: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "load", None)
    with pytest.raises(SpecError, match=r"spec\.yaml:5:36: metric 'clip_image' does not take \{'pears': 'all'\}"):
        f3core.apply(tiny_spec("{num_clips: 2, metrics: [{clip_image: {pears: all}}]}"))


def test_an_unreachable_hub_id_is_said(tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable was read at import
    with pytest.raises(ModelError, match="hub"):
        f3core.apply(tiny_spec(), overrides=["model.source=nobody/nothing"])
    assert not list(tmp_path.glob("run*"))


def test_a_spec_object_is_as_good_as_its_file(tiny_spec: Write) -> None:
    spec = f3core.load_spec(tiny_spec(evaluate="null")).spec
    result = f3core.apply(spec)
    assert spec.evaluate is None
    assert result.report.timing is None
    assert result.report.clips == 0


def test_a_report_says_when_steps_differ(tiny_spec: Write, tmp_path: Path) -> None:
    assert f3core.apply(tiny_spec(), overrides=["evaluate.steps=4"]).report.notes == ()
    (note,) = f3core.apply(tiny_spec(), output=tmp_path / "b", overrides=["evaluate.steps=2"]).report.notes
    assert "for the 4 calibrated steps" in note
    assert "for 2 steps" in note
