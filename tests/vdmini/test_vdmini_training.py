"""The three losses in the training itself: found by name, in batches of several parts, interrupted and gone on with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import vdmini_toy as toy
from f3core_vdmini.mca import MultiFrameAdversarialLoss
from torch import Tensor

from f3core.distillation.loss import Loss, Step
from f3core.distillation.trainer import Trained, train
from f3core.registry import installed
from f3core.spec_distill import DistillSpec

NAMES = ("task", "icd", "mca")


class _Clips:
    """Six clips of latents."""

    def __init__(self) -> None:
        shape = (6, toy.CHANNELS, toy.FRAMES, toy.HEIGHT, toy.WIDTH)
        self.all = torch.randn(shape, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.all)

    def latents(self, numbers: Sequence[int]) -> Tensor:
        return self.all[list(numbers)]

    def captions(self, numbers: Sequence[int]) -> list[str]:
        return [""] * len(numbers)

    def clips(self, numbers: Sequence[int]) -> Tensor | None:
        return None


def _trained(folder: Path, **changes: object) -> Trained:
    """Six steps of four clips; a student that has lost the middle block."""
    settings = {"data": "toy", "steps": 6, "batch_size": 4, "save_every": 2, "optimiser": {"warmup": 0}}
    torch.manual_seed(0)
    teacher = toy.Toy()
    student = copy.deepcopy(teacher)
    del student.blocks[1]
    bench = toy.bench(teacher, student, [("blocks.0", "blocks.0"), ("blocks.2", "blocks.1")])
    losses: list[Loss] = [installed().make("loss", name, {"width": 8} if name == "mca" else {}) for name in NAMES]
    spec = DistillSpec.model_validate({**settings, **changes})
    return train(bench, losses, _Clips(), spec, folder, lambda task, done, total: None)


def _curve(trained: Trained) -> list[list[float]]:
    return [[each.losses[name] for name in (*NAMES, "mca_opponent")] for each in trained.history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained(tmp_path_factory.mktemp("whole"))


def test_every_loss_and_figure_is_noted(whole: Trained) -> None:
    assert len(whole.history) == 6
    for record in whole.history:
        assert set(record.losses) == {*NAMES, "mca_opponent"}
        assert {"mca_real", "mca_fake"} <= set(record.figures)
        expected = record.losses["task"] + 0.1 * record.losses["icd"] + record.losses["mca"]
        assert record.figures["total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_make_the_same_curve(parts: int, whole: Trained, tmp_path: Path) -> None:
    torch.testing.assert_close(_curve(_trained(tmp_path, accumulate=parts)), _curve(whole), rtol=1e-4, atol=1e-5)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    whole: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the fourth step, when it is the opponent's turn: it goes on from the checkpoint of the second."""
    plain = MultiFrameAdversarialLoss.opposing

    def stopping(loss: MultiFrameAdversarialLoss, step: Step) -> Tensor:
        if step.number == 4:
            raise KeyboardInterrupt
        return plain(loss, step)

    with monkeypatch.context() as patch:
        patch.setattr(MultiFrameAdversarialLoss, "opposing", stopping)
        with pytest.raises(KeyboardInterrupt):
            _trained(tmp_path)
    torch.testing.assert_close(_curve(_trained(tmp_path)), _curve(whole), rtol=1e-6, atol=1e-6)
