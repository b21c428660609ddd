"""The adversarial loss: what it computes, who learns from it, what it costs, and that a student follows it."""

from __future__ import annotations

import copy

import pytest
import tiny_wan
import torch
import vdmini_toy as toy
from diffusers import UNetSpatioTemporalConditionModel, WanTransformer3DModel
from f3core_vdmini.heads import Discriminator
from f3core_vdmini.icd import IndividualContentLoss
from f3core_vdmini.mca import MultiFrameAdversarialLoss
from f3core_vdmini.watched import spread
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core.distillation.loss import Bench, Loss
from f3core.distillation.recipe import Conditions
from f3core.distillation.watching import watching
from f3core.errors import ModelError, PluginError


def _pair(depth: int = 3) -> tuple[toy.Toy, toy.Toy]:
    torch.manual_seed(0)
    return toy.Toy(depth), toy.Toy(depth)


def _latents(rows: int = 2) -> Tensor:
    source = torch.Generator().manual_seed(5)
    return torch.randn(rows, toy.CHANNELS, toy.FRAMES, toy.HEIGHT, toy.WIDTH, generator=source)


def _made(bench: Bench, **options: object) -> MultiFrameAdversarialLoss:
    loss = MultiFrameAdversarialLoss(**{"width": 8, **options})  # type: ignore[arg-type]
    torch.manual_seed(1)
    loss.prepare(bench)
    return loss


def _gradients(module: nn.Module) -> list[Tensor | None]:
    return [each.grad for each in module.parameters()]


def test_both_losses_are_their_formulas() -> None:
    """Written out: predictions to clean latents, the same noise on both, the teacher's features, scores, hinge."""
    bench = toy.bench(*_pair())
    loss, step = _made(bench, blocks=["blocks.1"]), toy.step(bench, _latents())
    s = step.levels.reshape(-1, 1, 1, 1, 1) / 1000
    levels = bench.recipe.at_sigma(torch.exp(-1 + step.normal("mca level", torch.zeros(2))))
    again, scores = levels.reshape(-1, 1, 1, 1, 1) / 1000, []
    for predicted in (bench.teacher(step.noisy, step.levels), step.predicted):
        clean = step.noisy - s * predicted
        noised = (1 - again) * clean + again * step.normal("mca noise", clean)
        with watching(bench.teacher, ["blocks.1"]) as seen:
            bench.teacher(noised, levels)
        scores.append(loss.opponent({"blocks.1": seen.outputs["blocks.1"].unflatten(1, (toy.FRAMES, -1))}))
    real, fake = scores
    torch.testing.assert_close(loss(step), -sum(each.mean() for each in fake) / 2)
    hinge = sum((1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(real, fake, strict=True)) / 2
    torch.testing.assert_close(loss.opposing(step), hinge)
    means = {"mca_real": real, "mca_fake": fake}
    for name, each in means.items():
        assert step.figures[name] == pytest.approx(sum(x.mean().item() for x in each) / 2, abs=1e-5)


def test_each_loss_teaches_its_own_side_alone() -> None:
    bench = toy.bench(*_pair())
    loss, step = _made(bench), toy.step(bench, _latents())
    loss(step).backward()
    assert all(each is not None for each in _gradients(bench.student.enter))
    assert sum(each.abs().sum() for each in _gradients(bench.student) if each is not None) > 0
    assert _gradients(loss.opponent) == [None] * len(_gradients(loss.opponent))
    assert _gradients(bench.teacher) == [None] * len(_gradients(bench.teacher))

    bench.student.zero_grad()
    loss.opposing(step).backward()
    assert all(each is not None for each in _gradients(loss.opponent))
    assert not any(each is not None for each in [*_gradients(bench.student), *_gradients(bench.teacher)])


def test_a_step_costs_the_teacher_three_forwards_one_with_gradient() -> None:
    """The one that all losses share, one for the student's clip, one for its own."""
    bench, calls = toy.bench(*_pair()), []
    loss, content = _made(bench), IndividualContentLoss()
    content.prepare(bench)
    step = toy.step(bench, _latents(), calls=calls)
    (loss(step) + content(step)).backward()
    loss.opposing(step)
    assert sorted(calls) == [False, False, True]


def test_steps_may_come_between() -> None:
    """As when gradients of several parts are gathered before the opponent has its turn."""
    bench = toy.bench(*_pair())
    loss = _made(bench)
    steps = [toy.step(bench, _latents(), number) for number in (0, 1)]
    in_turn = []
    for step in steps:
        loss(step)
        in_turn.append(loss.opposing(step).detach())
    for step in steps:
        loss(step)
    torch.testing.assert_close([loss.opposing(step).detach() for step in steps], in_turn)


def test_both_are_means_over_rows_however_a_batch_is_split() -> None:
    bench = toy.bench(*_pair())
    loss, latents = _made(bench), _latents(4)

    def both(rows: slice) -> Tensor:
        step = toy.step(bench, latents[rows], first_row=rows.start)
        return torch.stack([loss(step), loss.opposing(step)]).detach()

    parts = [both(slice(i, i + 1)) for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(0), both(slice(0, 4)))


def test_a_student_that_is_its_teacher_leaves_nothing_to_tell_apart() -> None:
    teacher, student = _pair()
    student.load_state_dict(teacher.state_dict())
    bench = toy.bench(teacher, student)
    loss, step = _made(bench), toy.step(bench, _latents())
    loss(step)
    assert loss.opposing(step).item() >= 2 - 1e-6  # max(0, 1 − x) + max(0, 1 + x) is never less
    assert step.figures["mca_real"] == pytest.approx(step.figures["mca_fake"], abs=1e-6)


def test_opponents_hang_on_the_seed_alone() -> None:
    bench = toy.bench(*_pair())
    first, second = _made(bench).opponent.state_dict(), _made(bench).opponent.state_dict()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_it_learns_under_autocast() -> None:
    bench = toy.bench(*_pair())
    loss = _made(bench)
    with torch.autocast("cpu", torch.bfloat16):
        step = toy.step(bench, _latents())
        ours = loss(step)
        theirs = loss.opposing(step)
    assert ours.dtype == theirs.dtype == torch.float32
    (ours + theirs).backward()
    assert all(torch.isfinite(each).all() for each in _gradients(loss.opponent))
    assert all(torch.isfinite(each).all() for each in _gradients(bench.student.enter))


@given(depth=st.integers(1, 12), count=st.integers(1, 14))
def test_blocks_are_spread_over_depth(depth: int, count: int) -> None:
    bench = toy.bench(nn.Identity(), nn.Identity(), [(f"{i}", f"{i}") for i in range(depth)])
    picked = [int(path) for path in spread(bench, count)]
    assert len(picked) == min(depth, count)
    assert picked[-1] == depth - 1
    gaps = [b - a for a, b in zip([-1, *picked], picked, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_heads_stand_where_they_are_told() -> None:
    bench = toy.bench(*_pair(depth=5))
    assert _made(bench, blocks=2).opponent.blocks == ("blocks.1", "blocks.4")
    assert _made(bench, blocks=["blocks.3", "blocks.0"]).opponent.blocks == ("blocks.0", "blocks.3")


def test_impossible_options_are_refused() -> None:
    for options in ({"sigma_std": -1.0}, {"width": 0}, {"blocks": 0}):
        with pytest.raises(PluginError, match="mca"):
            MultiFrameAdversarialLoss(**options)
    with pytest.raises(ModelError, match=r"blocks\.9"):
        _made(toy.bench(*_pair()), blocks=["blocks.9"])
    with pytest.raises(ModelError, match="no block"):
        _made(toy.bench(*_pair(), matched=[]))


def test_a_block_that_does_not_run_is_refused() -> None:
    teacher, student = _pair()
    teacher.idle = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="idle did not run"):
        _made(toy.bench(teacher, student, [("idle", "blocks.0")]))


def test_it_says_what_it_was_made_with() -> None:
    said = MultiFrameAdversarialLoss(blocks=["blocks.0"], sigma_std=0.5).options()
    assert said["blocks"] == ["blocks.0"]
    assert MultiFrameAdversarialLoss(**said).options() == said


class _Clips(nn.Module):
    """A student that predicts from noise alone: what its clips are like is what it learned of the teacher's."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1, toy.CHANNELS, toy.FRAMES, 1, 1))
        self.blocks = nn.ModuleList([nn.Identity()])

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        return self.blocks[0](noisy) - self.offset


def test_a_student_moves_towards_its_teachers_clips() -> None:
    """Both predict the noisy latents less an offset; the teacher's offset grows with the frame, the student's starts at
    nothing and is told nothing of it but by the discriminator."""
    torch.manual_seed(0)
    teacher = _Clips()
    with torch.no_grad():
        teacher.offset[:] = torch.outer(torch.tensor([1, -1, 0.5, 0]), torch.linspace(-1, 1, toy.FRAMES))[
            ..., None, None
        ]
    student = _Clips()
    bench = toy.bench(teacher, student, [("blocks.0", "blocks.0")])
    loss = _made(bench, width=16, sigma_mean=-2.0)
    ours = torch.optim.Adam(student.parameters(), 3e-2, betas=(0.0, 0.9))
    theirs = torch.optim.Adam(loss.opponent.parameters(), 1e-2, betas=(0.0, 0.9))

    def off() -> float:
        return float((student.offset - teacher.offset).detach().square().mean())

    start = off()
    for number in range(150):
        step = toy.step(bench, torch.randn(8, toy.CHANNELS, toy.FRAMES, toy.HEIGHT, toy.WIDTH), number)
        ours.zero_grad()
        loss(step).backward()
        ours.step()
        theirs.zero_grad()
        loss.opposing(step).backward()
        theirs.step()
    assert off() < start / 3


class _WanFlow(toy.ToyFlow):
    """The same flow for a real transformer."""

    def predict(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        return denoiser(noisy, levels, conditions["encoder_hidden_states"], return_dict=False)[0]


def test_a_real_transformer_trains() -> None:
    """Wan, its student two blocks shallower."""
    teacher = tiny_wan.transformer(layers=4)
    student = WanTransformer3DModel.from_config({**teacher.config, "num_layers": 2})
    latents, conditions = torch.randn(2, 4, 3, 4, 8), {"encoder_hidden_states": torch.randn(2, 5, 8)}
    example = {"encoder_hidden_states": conditions["encoder_hidden_states"][:1]}
    bench = toy.bench(teacher, student, [("blocks.1", "blocks.0"), ("blocks.3", "blocks.1")], _WanFlow(), latents)
    bench.example[2].update(example)
    adversary = _both_train(bench, latents, conditions)
    assert isinstance(adversary.opponent, Discriminator)
    assert [head.channels for head in adversary.opponent.spatial] == [32, 32]


class _SvdFlow(toy.ToyFlow):
    """The same flow for Stable Video Diffusion's network, which takes frames first."""

    def predict(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        rows, frames = len(noisy), noisy.shape[2]
        image, ids = torch.zeros(rows, 1, 8), torch.zeros(rows, 3)
        out = denoiser(noisy.transpose(1, 2), levels[0], image, ids, return_dict=False)[0]
        assert out.shape[1] == frames
        return out.transpose(1, 2)


def test_a_real_u_net_trains() -> None:
    """Its blocks put out pictures, of other sizes at every depth, and other tensors with them."""
    torch.manual_seed(0)
    teacher = UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=8,
        num_attention_heads=(2, 4),
        num_frames=3,
    )
    latents = torch.randn(1, 4, 3, 8, 8)
    paths = ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.conv_in.weight.mul_(1.5)
    bench = toy.bench(teacher, student, [(path, path) for path in paths], _SvdFlow(), latents)
    adversary = _both_train(bench, latents, {})
    assert [head.channels for head in adversary.opponent.temporal] == [32, 64, 64, 32]


def _both_train(bench: Bench, latents: Tensor, conditions: Conditions) -> MultiFrameAdversarialLoss:
    """One step of both losses: gradients reach the student and the opponent, and are finite."""
    content = IndividualContentLoss()
    content.prepare(bench)
    adversary = _made(bench)
    losses: list[Loss] = [content, adversary]
    step = toy.step(bench, latents, conditions=conditions)
    torch.stack([loss(step) for loss in losses]).sum().backward()
    adversary.opposing(step).backward()
    reached = [each for each in _gradients(bench.student) if each is not None]
    assert len(reached) > len(_gradients(bench.student)) // 2
    for each in [*reached, *_gradients(adversary.opponent)]:
        assert each is not None
        assert torch.isfinite(each).all()
    assert not any(each is not None for each in _gradients(bench.teacher))
    return adversary
