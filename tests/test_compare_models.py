"""Rows of a comparison that bring a model of their own: what they are measured against, and which models are loaded."""

from __future__ import annotations

import csv
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_wan
import torch
from comparing import EVALUATE, SMALL, Write, generated, registry, run, told
from f3core_diffusers.wan import WanAdapter

from f3core import compare_text, engine, seeds
from f3core.compare import compare
from f3core.compare_rows import Comparison
from f3core.errors import OutputError, SpecError
from f3core.footprint import model_size
from f3core.scores import Scores
from f3core.spec import load_spec

HALF = "prune: {ratio: 0.5}"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "installed", registry)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of two layers, which names no call."""
    return tiny_wan.folder(tmp_path_factory.mktemp("students") / "student", layers=2)


@pytest.fixture
def student(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "student"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every pipeline that is loaded, weakly."""
    found, load = list[Any](), WanAdapter.load

    def kept(self: WanAdapter, source: str, **options: Any) -> Any:
        pipeline = load(self, source, **options)
        found.append((source, weakref.ref(pipeline.transformer)))
        return pipeline

    monkeypatch.setattr(WanAdapter, "load", kept)
    return found


def alive(loaded: list[Any]) -> list[str]:
    return [Path(source).name for source, model in loaded if model() is not None]


def rows(student: Path) -> tuple[str, str, str]:
    return (
        f"{{name: half, {HALF}}}",
        f"{{name: student, source: {student}}}",
        f"{{name: student + half, source: {student}, {HALF}}}",
    )


def test_teacher_student_and_pruned_student_meet_the_same(
    tiny_spec: Write, student: Path, loaded: list[Any], tmp_path: Path
) -> None:
    spec, held = tiny_spec(EVALUATE.replace("timing_pairs: 0", "timing_pairs: 1")), set[tuple[str, ...]]()
    found = run(spec, *rows(student), listener=lambda *_: held.add(tuple(alive(loaded))))
    teacher, half, alone, both = found.rows
    assert held <= {(), ("wan",), ("wan", "student")}
    assert [Path(source).name for source, _ in loaded] == ["wan", "student", "student", "student"]  # looked at, 2 seeds

    small = tiny_wan.transformer(2)
    assert (alone.parameters, teacher.parameters) == (
        sum(p.numel() for p in small.parameters()),
        sum(p.numel() for p in tiny_wan.transformer(4).parameters()),
    )
    assert 0.3 < alone.share < 0.6 < half.share < 1
    assert both.share < alone.share
    assert both.share == pytest.approx(both.predicted)  # of the teacher's MACs, not of the student's
    assert (alone.predicted, half.predicted) == (None, pytest.approx(half.share))
    assert (both.pruned, both.units, alone.units) == (1, 2, 0)
    assert [row.source for row in found.rows] == [None, None, str(student), str(student)]
    assert alone.what == str(student)
    assert both.what == f"{student}; f3 (aas) on TA, ratio 0.5, axis layer: self_only"
    assert alone.damage.mean > 0
    assert list(alone.quality) == ["light", "likeness"]  # of the teacher's clips
    for row in found.rows:
        assert row.seconds is not None
        assert row.memory is not None

    written = tmp_path / "run"
    assert Comparison.model_validate_json((written / "compare.json").read_text()) == found
    with (written / "compare.csv").open(newline="") as file:
        assert [line["source"] for line in csv.DictReader(file)] == [found.source] * 2 + [str(student)] * 2
    assert sorted(str(f.relative_to(written / "scores")) for f in (written / "scores").rglob("*.safetensors")) == [
        "seed-0-TA.safetensors", "seed-1-TA.safetensors", "student/seed-0-TA.safetensors",
        "student/seed-1-TA.safetensors",
    ]  # fmt: skip
    assert str(student) in (written / "compare.md").read_text()
    assert any(note.startswith("Rows of another model generate as") for note in compare_text.notes(found))


def test_such_a_row_is_what_the_model_does_alone(tiny_spec: Write, student: Path, tmp_path: Path) -> None:
    spec = tiny_spec(EVALUATE)
    found = run(spec, *rows(student)[1:], over="[2]", output=tmp_path / "c")
    sets = (
        f"model.source={student}", f"model.call={tiny_wan.CALL}", "calibrate.seed=2", "prune.seed=2",
        "evaluate.seed=3", "evaluate.metrics=[light]", *SMALL,
    )  # fmt: skip
    scores = Scores.load(tmp_path / "c" / "scores" / "student" / "seed-2-TA.safetensors")
    applied = engine.apply(spec, overrides=sets, registry=registry(), scores=scores)  # refused if of another model
    own, report = found.outcomes[2], applied.report
    assert own.pruning is not None
    assert tuple(unit.name for unit in applied.plan.pruned) == own.pruning.pruned
    assert report.generation.counted.total == own.macs
    assert report.generation.before.total == found.outcomes[1].macs
    assert report.quality["light"].after == pytest.approx(own.quality["light"])
    assert report.quality["light"].before == pytest.approx(found.outcomes[1].quality["light"])
    assert own.parameters == model_size(WanAdapter(), applied.pipeline)


def test_what_apply_wrote_is_a_model_to_compare(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec(EVALUATE)
    scored = run(spec, f"{{name: half, {HALF}}}", over="[0]", output=tmp_path / "scored")
    scores = Scores.load(tmp_path / "scored" / "scores" / "seed-0-TA.safetensors")
    sets = (*SMALL, "evaluate=null")
    pruned = engine.apply(spec, overrides=sets, scores=scores, output=tmp_path / "pruned").folder / "model"
    found = run(spec, f"{{name: half, source: {pruned}}}", over="[0]")
    (_, half), (_, loaded) = scored.rows, found.rows
    assert (loaded.macs, loaded.parameters, loaded.damage) == (half.macs, half.parameters, half.damage)
    assert loaded.quality == half.quality
    with pytest.raises(SpecError, match=r"--set compare=.*pruned already; start from the unpruned model"):
        run(spec, f"{{name: again, source: {pruned}, {HALF}}}", over="[0]", output=tmp_path / "again")


def test_two_models_are_never_held_beside_the_specs(
    tiny_spec: Write, student: Path, loaded: list[Any], tmp_path: Path
) -> None:
    other = shutil.copytree(student, tmp_path / "other")
    most = list[int]()
    run(
        tiny_spec("{num_clips: 1, timing_pairs: 0}"),
        f"{{name: a, source: {student}}}",
        f"{{name: b, source: {other}}}",
        "{name: c, accelerate: skip}",
        over="[0]",
        listener=lambda task, done, total: most.append(len(alive(loaded))) if task != "Seed 0: b" else None,
    )
    assert max(most) == 2
    assert len(loaded) == 5
    assert alive(loaded) in ([], ["wan"])


# --- going on -------------------------------------------------------------------------------------------------------


def killed(task: str, done: int) -> Callable[[str, int, int], None]:
    def listen(heard: str, so_far: int, total: int) -> None:
        if (heard, so_far) == (task, done):
            raise KeyboardInterrupt

    return listen


def retrained(student: Path) -> None:
    """The same model with other weights."""
    pipeline = tiny_wan.pipeline(2)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.mul_(1.5)
    pipeline.transformer.save_pretrained(student / "transformer")


def test_rows_are_taken_up_only_if_they_are_of_this_model(tiny_spec: Write, student: Path, tmp_path: Path) -> None:
    spec, two = tiny_spec("{num_clips: 1, timing_pairs: 0}"), rows(student)[1:]

    def weights() -> object:
        """Of the model whose scores the finished comparison used."""
        scores = Scores.load(tmp_path / "run" / "scores" / "student" / "seed-0-TA.safetensors")
        return scores.header.identity["model"]

    def goes_on(change: Callable[[Path], None]) -> int:
        """Generations that a killed comparison still needs after a change of the student."""
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with pytest.raises(KeyboardInterrupt):
            run(spec, *two, over="[0]", listener=killed("Seed 0: rows", 3))
        change(student)
        with pytest.MonkeyPatch.context() as patch:
            calls = generated(patch)
            found.append(run(spec, *two, over="[0]", resume=True))
            return len(calls)

    found = list[Comparison]()
    assert goes_on(lambda student: None) == 0
    first = weights()
    assert goes_on(retrained) > 0
    assert weights() != first
    (_, *before), (_, *after) = found[0].rows, found[1].rows
    assert all(a.damage != b.damage for a, b in zip(before, after, strict=True))
    assert told(run(spec, *two, over="[0]", output=tmp_path / "whole")) == told(found[1])


def test_a_model_that_changes_between_seeds_or_meanwhile_is_noticed(
    tiny_spec: Write, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, row = tiny_spec("{num_clips: 1, timing_pairs: 0}"), f"{{name: student, source: {student}}}"
    with pytest.raises(KeyboardInterrupt):
        run(spec, row, listener=killed("Seed 1: rows", 1))
    retrained(student)
    calls = generated(monkeypatch)
    with pytest.raises(OutputError, match=rf"did a seed with other weights of {student}; remove the folder"):
        run(spec, row, resume=True)
    assert not calls

    def retrain(task: str, done: int, total: int) -> None:
        if (task, done) == ("Seed 0: rows", 1):
            shutil.copytree(here, student, dirs_exist_ok=True)

    here = tiny_wan.folder(tmp_path / "here", layers=2)
    with pytest.raises(OutputError, match="was changed while it was compared"):
        run(spec, row, over="[0]", output=tmp_path / "other", listener=retrain)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_stand_in_the_place_is_refused_before_anything_runs(
    tiny_spec: Write, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, spec = generated(monkeypatch), tiny_spec(EVALUATE)
    at = f"{spec}:9:20"

    def refused(row: str, *, source: Path = student) -> str:
        text = spec.read_text().partition("compare:")[0]
        spec.write_text(f"{text}compare:\n  rows:\n    - {{name: none, source: {source}{row}}}\n")
        with pytest.raises(SpecError) as caught:
            compare(load_spec(spec, SMALL))
        return str(caught.value)

    assert f"{at}: '{tmp_path / 'nowhere'}' is no folder here" in refused("", source=tmp_path / "nowhere")
    assert "does not take {'blok': 1}" in refused(", accelerate: {skip: {blok: 1}}")
    assert f"{spec}:9" in (said := refused(", prune: {method: tome, axis: cell}"))
    assert "method 'tome' works at every step" in said
    (student / "transformer" / "config.json").unlink()
    assert refused("").startswith(f"{at}: {student}: could not be loaded")
    index = json.loads((student / "model_index.json").read_text())
    (student / "model_index.json").write_text(
        json.dumps({**index, "transformer": ["d", "CogVideoXTransformer3DModel"]})
    )
    said = refused("")
    assert said.startswith(f"{at}: {student} is of adapter 'cogvideox', the spec's model of 'wan'")
    assert not calls
    assert not list(tmp_path.glob("run*"))
