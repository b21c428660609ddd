"""What a training does, seen from outside: what it learns, draws, notes, keeps and refuses."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import Adversarial, Denoiser, Features, Saving, Task, ToyClips, all_losses, bench, run, spec

from f3core.distillation.loss import Loss, Step
from f3core.distillation.training_log import Record
from f3core.errors import ModelError, OutputError, SpecError


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def numbers(history: Sequence[Record]) -> list[dict[str, float]]:
    return [{"rate": r.learning_rate, **r.losses, **{f"+{k}": v for k, v in r.figures.items()}} for r in history]


class Seen(Loss):
    """Keeps what it was shown."""

    name = "seen"

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __call__(self, step: Step) -> Tensor:
        self.steps.append(step)
        return step.predicted.square().mean()


def test_the_student_learns_and_the_teacher_stays(tmp_path: Path) -> None:
    table = bench()
    teacher = weights(table.teacher)
    loss = Features()
    trained = run(tmp_path, spec(steps=150, save_every=150, batch_size=8), bench=table, losses=[loss])
    values = [record.losses["features"] for record in trained.history]
    assert sum(values[-10:]) < 0.25 * sum(values[:10])
    assert trained.steps == len(values) == 150
    assert trained.student is table.student
    assert not trained.student.training
    assert all(map(torch.equal, weights(table.teacher), teacher))
    assert not any(p.requires_grad for p in table.teacher.parameters())


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_rounding_only(tmp_path: Path, parts: int) -> None:
    whole = run(tmp_path / "whole", spec(batch_size=8))
    parted = run(tmp_path / "parted", spec(batch_size=8, accumulate=parts))
    assert numbers(parted.history) == [pytest.approx(each, abs=1e-5, rel=1e-5) for each in numbers(whole.history)]


class Forgetful(Denoiser):
    """Drops out half of what it sees, as the temporal convolutions of some U-Nets drop a tenth."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks)
        self.dropout = nn.Dropout(0.5)

    def forward(self, hidden: Tensor, level: Tensor, caption: Tensor) -> Tensor:
        return super().forward(self.dropout(hidden), level, caption)


def test_nothing_drops_out_of_the_student(tmp_path: Path) -> None:
    settings = spec(sample_every=2)  # a sample puts the student into evaluation and back
    plain = run(tmp_path / "plain", settings, sample=lambda *_: None)
    forgetful = run(tmp_path / "forgetful", settings, bench=bench(Forgetful), sample=lambda *_: None)
    assert numbers(forgetful.history) == numbers(plain.history)


def test_the_average_is_what_is_left_in_the_student_and_sampled_from(tmp_path: Path) -> None:
    live: dict[int, list[Tensor]] = {}
    sampled: dict[int, list[Tensor]] = {}
    modes: list[tuple[bool, bool]] = []

    def sample(student: nn.Module, step: int) -> None:
        sampled[step] = weights(student)
        modes.append((student.training, torch.is_grad_enabled()))

    plain = run(tmp_path / "plain", spec(ema=0, sample_every=1), sample=lambda m, step: live.update({step: weights(m)}))
    kept = run(tmp_path / "kept", spec(ema=0.6, sample_every=4), sample=sample)
    assert list(sampled) == [4, 8, 12]
    assert set(modes) == {(False, False)}
    wanted = weights(bench().student)
    for step in range(1, 13):
        wanted = [0.6 * old + 0.4 * new for old, new in zip(wanted, live[step], strict=True)]
        assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(sampled.get(step, wanted), wanted, strict=True))
    assert all(map(torch.equal, weights(kept.student), sampled[12]))
    assert all(map(torch.equal, weights(plain.student), live[12]))
    assert numbers(kept.history) == numbers(plain.history)  # live weights were put back each time


def test_rows_see_noise_levels_and_captions_of_their_own_clips(tmp_path: Path) -> None:
    table, seen, clips = bench(), Seen(), ToyClips()
    run(tmp_path, spec(steps=50, save_every=50), bench=table, losses=[seen], batches=clips)
    recipe: Any = table.recipe
    prompts = [recipe.prompts[start : start + 4] for start in range(0, 200, 4)]
    dropped = 0
    for step, words in zip(seen.steps, prompts, strict=True):
        assert torch.allclose(step.noisy, recipe.noised(step.latents, step.noise, step.levels))
        for latents, word in zip(step.latents, words, strict=True):
            number = next(i for i, each in enumerate(clips.all) if torch.equal(each, latents))
            assert word in ("", "x" * (1 + number))
            dropped += not word
    assert 30 < dropped < 90  # of 200, a share of 0.3
    assert [step.number for step in seen.steps] == list(range(1, 51))
    assert len({float(level) for step in seen.steps for level in step.levels}) == 200


def test_features_are_the_students_under_the_teachers_paths(tmp_path: Path) -> None:
    table, seen = bench(), Seen()
    run(tmp_path, spec(steps=1, ema=0, optimiser={"learning_rate": 1e-12}), bench=table, losses=[seen])
    (step,) = seen.steps
    assert list(step.features) == ["blocks.0", "blocks.2"]
    student: Any = table.student
    with torch.no_grad():
        hidden = step.noisy * (1 + step.levels[:, None] / 1000) + step.conditions["caption"][:, None] / 10
        first = student.blocks[0](hidden)[0]
        last = student.blocks[1](first)[0]
    assert torch.allclose(step.features["blocks.0"], first, atol=1e-5)
    assert torch.allclose(step.features["blocks.2"], last, atol=1e-5)
    assert not step.features["blocks.2"].requires_grad  # once the student's pass is over


def test_the_teacher_runs_only_when_asked(tmp_path: Path) -> None:
    table = bench()
    run(tmp_path / "task", spec(steps=3), bench=table, losses=[Task()])
    teacher: Any = table.teacher
    assert teacher.blocks[0].runs == 0
    run(tmp_path / "features", spec(steps=3), bench=(table := bench()), losses=[Features()])
    teacher = table.teacher
    assert teacher.blocks[0].runs == 3


class Spying(Adversarial):
    """Looks where gradients lie before its opponent learns."""

    def opposing(self, step: Step) -> Tensor:
        assert self.opponent is not None
        assert all(p.grad is None for p in self.opponent.parameters())
        assert all(p.requires_grad for p in self.opponent.parameters())
        self.students = [deepcopy(p.grad) for p in step.bench.student.parameters()]
        return super().opposing(step) + 0 * step.predicted.sum() + 0 * sum(f.sum() for f in step.features.values())


def test_passes_keep_out_of_each_others_gradients(tmp_path: Path) -> None:
    table, loss = bench(), Spying()
    before = weights(table.student)
    trained = run(tmp_path, spec(steps=1, ema=0), bench=table, losses=[loss])
    reached = [g is not None and bool(g.abs().sum()) for g in loss.students]
    moved = [not torch.equal(old, new) for old, new in zip(before, weights(table.student), strict=True)]
    assert all(reached[:4])  # through the frozen teacher
    assert all(moved[:4])
    assert not any(reached[4:])  # what no forward goes through
    assert trained.history[0].figures["adversarial_gradient_norm"] > 0
    assert all(p.grad is None for p in (*table.student.parameters(), *table.teacher.parameters()))


def test_steps_are_noted_once_each(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    trained = run(tmp_path, listener=lambda *said: heard.append(said))
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [set(line) for line in lines] == [{"step", "losses", "figures", "learning_rate", "seconds"}] * 12
    assert [line["losses"] for line in lines] == [record.losses for record in trained.history]
    first = lines[0]
    assert set(first["losses"]) == {"task", "features", "adversarial", "adversarial_opponent"}
    weighed = first["losses"]["task"] + 0.1 * first["losses"]["features"] + first["losses"]["adversarial"]
    assert first["figures"]["total"] == pytest.approx(weighed)
    assert 0 <= first["figures"]["right"] <= 1
    assert first["learning_rate"] == pytest.approx(0.02 / 4)
    assert [done for _, done, _ in heard] == list(range(13))
    assert {task.split("\t")[0] for task, _, _ in heard} == {"Distilling"}
    assert heard[-1][0].split("\t")[1].startswith(f"task {lines[-1]['losses']['task']:.3g}, features ")


def test_tensorboard_hears_the_same(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = run(tmp_path)
    board = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, pytest.approx(e.value)) for e in board.Scalars("loss/task")] == [
        (record.step, record.losses["task"]) for record in trained.history
    ]


def test_without_tensorboard_only_the_lines_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"training.jsonl", "checkpoint.pt"}


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.next.tmp").mkdir()
    with pytest.raises(OutputError, match=r"checkpoint\.pt: the checkpoint cannot be written"):
        run(tmp_path)


class Breaking(Task):
    """Not finite from a step on: itself, or its gradient alone."""

    def __init__(self, step: int, gradient: bool = False) -> None:
        self.step, self.gradient = step, gradient

    def __call__(self, step: Step) -> Tensor:
        loss = super().__call__(step)
        if step.number < self.step:
            return loss
        if self.gradient:
            step.predicted.register_hook(lambda gradient: gradient * math.nan)
            return (step.predicted - step.noise).square().mean()
        return loss / 0

    def options(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(("gradient", "said"), [(False, "loss 'task' is inf"), (True, "gradient_norm is nan")])
def test_a_loss_that_breaks_stops_it_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, gradient: bool, said: str
) -> None:
    settings = spec(save_every=2)
    with pytest.raises(ModelError, match=rf"step 6: {said}; the checkpoint of an earlier step stays in .*checkpoint"):
        run(tmp_path, settings, losses=[Breaking(6, gradient)])
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 4
    mended = run(tmp_path, settings, losses=[Breaking(99)])
    assert numbers(mended.history) == numbers(run(tmp_path / "whole", settings, losses=[Breaking(99)]).history)


def test_a_checkpoint_whose_next_step_breaks_is_not_kept(tmp_path: Path) -> None:
    """A huge rate leaves weights that are finite and good for nothing."""
    settings = spec(save_every=4)
    with pytest.raises(ModelError, match="step 5: loss 'task' is inf; a lower") as stopped:
        run(tmp_path, settings, losses=[Breaking(5)])
    assert "checkpoint" not in str(stopped.value)
    assert not (tmp_path / "checkpoint.pt").exists()
    with pytest.raises(ModelError, match=r"step 9: loss 'task' is inf; the checkpoint of an earlier step stays"):
        run(tmp_path, settings, losses=[Breaking(9)])
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 4
    mended = run(tmp_path, settings, losses=[Breaking(99)])
    assert numbers(mended.history) == numbers(run(tmp_path / "whole", settings, losses=[Breaking(99)]).history)
    assert {file.name for file in tmp_path.glob("*.pt")} == {"checkpoint.pt"}


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert numbers(again.history) == numbers(first.history)
    assert all(map(torch.equal, weights(again.student), weights(first.student)))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, spec(save_every=5, accumulate=2))  # what may differ
    for said, changes in (
        ("spec", {"settings": spec(seed=1)}),
        ("losses", {"losses": [Task(), Features()]}),
        ("number of clips", {"batches": ToyClips(11)}),
        ("student", {"bench": _other()}),
    ):
        with pytest.raises(OutputError, match=f"is another: {said} differ"):
            run(tmp_path, **changes)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK half")
    with pytest.raises(OutputError, match="no checkpoint that can be read"):
        run(tmp_path)


def _other() -> Any:
    table = bench()
    student: Any = table.student
    with torch.no_grad():
        student.blocks[0].inner.weight += 1
    return table


def test_bf16_trains_float32_weights(tmp_path: Path) -> None:
    seen = Seen()
    half = run(tmp_path / "bf16", spec(mixed_precision="bf16"), losses=[*all_losses(), seen])
    full = run(tmp_path / "no", spec(), losses=[*all_losses(), Seen()])  # one process, two precisions
    assert {p.dtype for p in half.student.parameters()} == {torch.float32}
    assert {step.predicted.dtype for step in seen.steps} == {torch.float32}
    far = [abs(a.losses["task"] - b.losses["task"]) for a, b in zip(half.history, full.history, strict=True)]
    assert 0 < max(far) < 0.1


def test_gradient_checkpointing_runs_blocks_again_and_changes_nothing(tmp_path: Path) -> None:
    table = bench(Saving)
    saving = run(tmp_path / "saving", spec(gradient_checkpointing=True), bench=table)
    plain = run(tmp_path / "plain", spec(), bench=(other := bench(Saving)))
    assert numbers(saving.history) == [pytest.approx(each, abs=1e-6) for each in numbers(plain.history)]
    student, without = table.student, other.student
    assert student.blocks[0].runs == 2 * without.blocks[0].runs == 24  # type: ignore[union-attr, index]
    assert not student.saving
    with pytest.raises(ModelError, match="Denoiser has no gradient checkpointing"):
        run(tmp_path / "none", spec(gradient_checkpointing=True))
    with pytest.raises(ModelError, match="is reentrant, which hides the gradient"):
        run(tmp_path / "reentrant", spec(gradient_checkpointing=True), bench=bench(Saving, reentrant=True))


def test_an_overflow_under_a_scaler_is_left_out_and_is_no_broken_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 needs a GPU; its scaler does not."""
    from f3core.distillation import trainer

    class Scaled(trainer.Processes):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)

    class Overflowing(Task):
        def __init__(self, *steps: int) -> None:
            self.steps = steps

        def __call__(self, step: Step) -> Tensor:
            if step.number in self.steps:
                step.predicted.register_hook(lambda gradient: gradient * math.inf)
            return super().__call__(step)

    plain = run(tmp_path / "plain", spec(steps=4), losses=[Task(), Features()])
    monkeypatch.setattr(trainer, "Processes", Scaled)
    scaled = run(tmp_path / "scaled", spec(steps=4), losses=[Task(), Features()])
    assert numbers(scaled.history) == [pytest.approx(each, abs=1e-5) for each in numbers(plain.history)]
    over = run(tmp_path / "over", spec(steps=6), losses=[Overflowing(5)])
    assert not math.isfinite(over.history[4].figures["gradient_norm"])
    assert over.history[5].figures["gradient_norm"] > 0
    state = torch.load(tmp_path / "over" / "checkpoint.pt")
    assert state["scaler"]["scale"] == 512
    assert [int(each["step"]) for each in state["student"]["optimiser"]["state"].values()] == [5] * 6
    with pytest.raises(ModelError, match="step 21: gradient_norm is"):  # by then losses are scaled by 1024 / 2**21
        run(tmp_path / "always", spec(steps=40), losses=[Overflowing(*range(1, 41))])


def test_what_cannot_be_trained_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="4 clips cannot be shared evenly by 1 process in 3 part"):
        run(tmp_path, spec(accumulate=3))
    with pytest.raises(ModelError, match="fp16 needs a GPU"):
        run(tmp_path, spec(mixed_precision="fp16"))
    with pytest.raises(ModelError, match="no clip"):
        run(tmp_path, batches=ToyClips(0))
    table = bench()
    with pytest.raises(ModelError, match="student and teacher share weights"):
        run(tmp_path, bench=replace(table, student=table.teacher))
    table.student.requires_grad_(False)
    with pytest.raises(ModelError, match="the student has no parameter that can be trained"):
        run(tmp_path, bench=table)
    with pytest.raises(ModelError, match="the student is in bfloat16, too coarse"):
        run(tmp_path, bench=(half := bench(), half.student.bfloat16())[0])
    with pytest.raises(ModelError, match=r"Denoiser has no module blocks\.9"):
        run(tmp_path, bench=replace(bench(), matched=[("blocks.0", "blocks.9")]))
    monkeypatch.setattr(Seen, "__call__", lambda self, step: step.latents.mean())
    with pytest.raises(ModelError, match="no loss hangs on what the student predicts"):
        run(tmp_path, losses=[Seen()])
    monkeypatch.setattr(Seen, "__call__", lambda self, step: step.predicted)
    with pytest.raises(ModelError, match="loss 'seen' gave"):
        run(tmp_path, losses=[Seen()])
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError, match=r"pip install 'f3core\[distill\]'"):
        run(tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
