"""The whole line, spec to trained student, on a tiny real pipeline, and going on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_wan
import torch
from diffusers import DiffusionPipeline
from distilling import BLOCKS, QUALITY, Shaky, names, registry, run, stopped_at, weights, write
from f3core_diffusers.wan import WanAdapter

import f3core
from f3core.distillation import distill_text
from f3core.distillation.distill import Distilled
from f3core.distillation.distill_report import Distillation
from f3core.errors import ModelError, OutputError
from f3core.plan import PruningPlan
from f3core.trial import Trial

SECTION = {"sample_every": 2, "samples": 1, "losses": ["task", {"icd": {"weight": 0.5}}, {"mca": {"width": 4}}]}
CALLED = f"model.call={json.dumps(tiny_wan.CALL)}"


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    """A run that nothing interrupted. No test alters it."""
    return run(write(tmp_path_factory.mktemp("whole"), tiny_folder, **SECTION))


def clips(pipeline: Any) -> torch.Tensor:
    return WanAdapter().generate(pipeline, ["a red cat"], steps=2, seeds=[5], call=tiny_wan.CALL)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


def test_the_folder_holds_all_it_promises(whole: Distilled) -> None:
    report, folder = whole.report, whole.folder
    assert names(folder) == {
        *("model", "plan.json", "spec.yaml", "distill.json", "distill.md", "losses.png", "training.jsonl"),
        *("tensorboard", "samples"),
    }
    assert names(folder.parent) == {"prompts.txt", "spec.yaml", "run"}
    assert Distillation.model_validate_json((folder / "distill.json").read_text()) == report
    assert (folder / "distill.md").read_text() == distill_text.to_markdown(report)
    assert (folder / "spec.yaml").read_text() == (folder.parent / "spec.yaml").read_text()
    assert PruningPlan.load(folder / "plan.json") == whole.plan
    assert report.samples == ("samples/step-000002/00000.mp4",)
    assert (folder / "samples/step-000002/00000.txt").read_text().startswith("a ")
    assert (folder / "losses.png").stat().st_size > 10_000


def test_the_report_tells_what_the_training_noted(whole: Distilled) -> None:
    training, lines = whole.report.training, log(whole.folder)
    told = {loss.name: (loss.weight, loss.first, loss.last) for loss in training.losses}
    weights = {"task": 1.0, "icd": 0.5, "mca": 1.0, "mca_opponent": None}
    noted = {name: (w, lines[0]["losses"][name], lines[2]["losses"][name]) for name, w in weights.items()}
    assert told == {**noted, "total": (None, lines[0]["figures"]["total"], lines[2]["figures"]["total"])}
    assert (training.steps, training.seen, training.processes, training.clips, training.matched) == (3, 6, 1, 4, 3)
    assert training.seconds == pytest.approx(sum(line["seconds"] for line in lines))
    assert training.learning_rate == 0.01


def test_teacher_and_student_are_measured_before_and_after(whole: Distilled) -> None:
    teacher, untrained, trained = whole.report.variants.values()
    assert teacher.parameters > untrained.parameters == trained.parameters
    assert trained.parameters == sum(p.numel() for p in whole.pipeline.transformer.parameters())
    assert teacher.macs > untrained.macs == trained.macs
    assert list(teacher.quality) == ["light"], "no clip is compared with itself"
    assert list(trained.quality) == ["light", "likeness"]
    assert (teacher.damage, len({untrained.damage, trained.damage, None})) == (None, 3)
    assert whole.report.timing is None


def test_a_student_loads_as_its_library_loads_it_and_can_be_pruned_again(whole: Distilled, tmp_path: Path) -> None:
    model = whole.folder / "model"
    loaded = DiffusionPipeline.from_pretrained(model)
    assert type(loaded.transformer) is type(tiny_wan.transformer())
    assert len(loaded.transformer.blocks) == 3
    made = dict(weights(whole.pipeline))
    assert loaded.transformer.state_dict().keys() == made.keys()
    assert all(torch.equal(made[name], value) for name, value in weights(loaded))

    sets = (f"model.source={model}", "prune={target: TA, ratio: 0.34}", f"output={tmp_path / 'f3'}", "evaluate=null")
    pruned = f3core.apply(whole.folder / "spec.yaml", overrides=sets, registry=registry())
    assert pruned.report.parameters.before == whole.report.trained.parameters
    assert pruned.report.generation.before.total == whole.report.trained.macs
    assert pruned.report.generation.counted.total < whole.report.trained.macs
    assert dict(pruned.call) == dict(whole.call)


def test_what_lost_attention_is_trained_too(tiny_folder: Path, tmp_path: Path) -> None:
    prune = {"target": "TA", "ratio": 0.5, "removal": "drop"}
    made = run(write(tmp_path, tiny_folder, prune=prune, evaluate=None))
    assert made.report.training.matched == 4
    assert made.report.trained.quality == {}
    assert torch.equal(clips(DiffusionPipeline.from_pretrained(made.folder / "model")), clips(made.pipeline))


def test_the_teacher_stays_as_it_was_and_a_student_that_learns_nothing_is_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing pruned, at a rate of next to nothing; all are measured on the same prompts and noise."""
    seen, usual = list[Any](), Trial.clips

    def noted(self: Trial, pipeline: Any, progress: Any = None) -> torch.Tensor:
        seen.append((self.prompts, self.seeds))
        return usual(self, pipeline, progress)

    monkeypatch.setattr(Trial, "clips", noted)
    teacher = tiny_wan.pipeline(layers=2)
    before = {name: value.clone() for name, value in weights(teacher)}
    section = {"optimiser": {"learning_rate": 1e-12, "warmup": 0, "weight_decay": 0}, "losses": ["task"], "steps": 1}
    spec = write(tmp_path, "none", prune={**BLOCKS, "ratio": 0}, evaluate={**QUALITY, "timing_pairs": 1}, **section)
    made = run(spec, CALLED, pipeline=teacher, output=tmp_path / "other")
    assert made.folder == tmp_path / "other"
    assert all(torch.equal(before[name], value) for name, value in weights(teacher))
    assert made.pipeline.transformer is not teacher.transformer
    assert seen == seen[:1] * 3
    report = made.report
    assert (report.untrained.damage, report.trained.damage) == (0, pytest.approx(0, abs=1e-9))
    assert report.teacher.quality["light"] == report.untrained.quality["light"]
    assert report.timing is not None
    assert report.timing.denoiser.after > 0


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["Distilling 2/3", "Generating: trained student 2/2"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    tiny_folder: Path, tmp_path: Path, whole: Distilled, place: str
) -> None:
    spec = write(tmp_path, tiny_folder, **SECTION)
    with pytest.raises(KeyboardInterrupt):
        run(spec, listener=stopped_at(place))
    with pytest.raises(OutputError, match="--resume"):
        run(spec)

    heard = list[str]()
    made = run(spec, resume=True, listener=lambda task, done, total: heard.append(f"{task} {done}"))
    assert not {"Scoring prompts 1", "Generating: teacher 2", "Generating: untrained student 2"} & set(heard)
    assert "Generating: trained student 2" in heard
    made_weights = dict(weights(made.pipeline))
    assert all(torch.equal(made_weights[name], value) for name, value in weights(whole.pipeline))
    apart = {"date", "versions", "command", "spec", "training"}
    assert made.report.model_dump(exclude=apart) == whole.report.model_dump(exclude=apart)
    assert made.report.training.losses == whole.report.training.losses
    assert names(made.folder) == names(whole.folder)
    assert names(made.folder / "samples") == {"step-000002"}


def test_a_run_of_another_teacher_takes_nothing_up(tmp_path: Path) -> None:
    """The spec is the same, the folder that it names holds other weights now."""
    one, other = tiny_wan.pipeline(layers=2), tiny_wan.pipeline(layers=2)
    with torch.no_grad():
        other.transformer.proj_out.bias += 1
    spec, heard = write(tmp_path, "none", prune={**BLOCKS, "ratio": 0.5}, losses=["task"]), list[str]()
    with pytest.raises(KeyboardInterrupt):
        run(spec, CALLED, pipeline=one, listener=stopped_at("Distilling 0/3"))
    with pytest.raises(KeyboardInterrupt):
        run(
            spec,
            CALLED,
            pipeline=other,
            resume=True,
            listener=lambda task, done, total: (
                heard.append(task),
                stopped_at("Distilling 0/3")(task, done, total),
            ),
        )
    assert {"Generating: teacher", "Generating: untrained student"} <= set(heard)


def test_a_training_of_other_settings_is_not_gone_on_with(tmp_path: Path, tiny_folder: Path) -> None:
    spec, partial = write(tmp_path, tiny_folder, evaluate=None), tmp_path / "run.partial" / "unfinished"
    with pytest.raises(KeyboardInterrupt):
        run(spec, listener=stopped_at("Loading the model 1/1"))
    assert not partial.exists(), "nothing was made that is worth going on with"
    with pytest.raises(KeyboardInterrupt):
        run(spec, listener=stopped_at("Encoding clips 0/2"))
    for change in ("distill.batch_size=1", "prune.ratio=0.5", "calibrate.seed=3"):
        with pytest.raises(OutputError, match="another spec"):
            run(spec, change, resume=True)


def test_after_a_loss_that_is_no_number_a_lower_rate_goes_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write(tmp_path, tiny_folder, losses=[{"shaky": {"step": 3}}], evaluate=None)
    with pytest.raises(ModelError, match=r"step 3: .*'shaky' is nan.*--resume.*learning_rate"):
        run(spec)
    monkeypatch.setattr(Shaky, "cured", True)
    made = run(spec, "distill.optimiser.learning_rate=0.0001", resume=True)
    first, *others = (line["learning_rate"] for line in log(made.folder))
    assert first == 0.01 > 0.0001 >= max(others)
    assert made.report.training.steps == 3


def test_where_nothing_was_learnt_nothing_is_said_of_going_on(tiny_folder: Path, tmp_path: Path) -> None:
    spec = write(tmp_path, tiny_folder, losses=[{"shaky": {"step": 1}}], evaluate=None)
    with pytest.raises(ModelError, match="step 1") as stopped:
        run(spec)
    assert "--resume" not in str(stopped.value)
