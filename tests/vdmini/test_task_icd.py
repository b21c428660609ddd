"""The task loss and the content loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import vdmini_toy as toy
from f3core_vdmini.icd import IndividualContentLoss
from f3core_vdmini.task import TaskLoss
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from f3core.errors import ModelError

ALL = ["blocks.0", "blocks.1", "blocks.2"]


def _pair(lay: Callable[[Tensor], Tensor] = lambda x: x.flatten(1, 2)) -> tuple[toy.Toy, toy.Toy]:
    torch.manual_seed(0)
    return toy.Toy(lay=lay), toy.Toy(lay=lay)


def _latents(rows: int = 2) -> Tensor:
    source = torch.Generator().manual_seed(5)
    return torch.randn(rows, toy.CHANNELS, toy.FRAMES, toy.HEIGHT, toy.WIDTH, generator=source)


def _icd(student: toy.Toy, teacher: toy.Toy, latents: Tensor | None = None, **options: object) -> Tensor:
    bench = toy.bench(teacher, student)
    loss = IndividualContentLoss(**options)  # type: ignore[arg-type]
    loss.prepare(bench)
    return loss(toy.step(bench, _latents() if latents is None else latents))


def test_the_task_loss_is_the_error_of_the_prediction() -> None:
    bench = toy.bench(*_pair())
    step = toy.step(bench, _latents())
    loss = TaskLoss()(step)
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(step.predicted, step.noise - step.latents))
    loss.backward()
    assert all(each.grad is not None for each in bench.student.enter.parameters())
    step.predicted = step.noise - step.latents
    assert TaskLoss()(step).item() == 0


def test_the_task_loss_works_in_float32() -> None:
    step = toy.step(toy.bench(*_pair()), _latents())
    step.predicted = step.predicted.bfloat16()
    loss = TaskLoss(weight=2.0)
    assert loss(step).dtype == torch.float32
    assert loss.options() == {"weight": 2.0}


@pytest.mark.parametrize("normalised", [True, False])
def test_equal_students_have_no_content_loss_and_others_have(normalised: bool) -> None:
    teacher, student = _pair()
    assert _icd(student, teacher, normalised=normalised).item() > 1e-3
    student.load_state_dict(teacher.state_dict())
    assert _icd(student, teacher, normalised=normalised).item() == 0
    with torch.no_grad():
        student.blocks[2].block.inner.bias[0] += 1e-2
    assert _icd(student, teacher, normalised=normalised, blocks=ALL[:2]).item() == 0
    assert _icd(student, teacher, normalised=normalised, blocks=ALL[2:]).item() > 0


def test_it_is_its_formula_summed_over_blocks() -> None:
    bench = toy.bench(*_pair())
    step = toy.step(bench, _latents())
    plain, relative = 0.0, 0.0
    for path in ALL:
        ours, theirs = step.features[path].unflatten(1, (toy.FRAMES, -1)), step.taught[1][path]
        theirs = theirs.unflatten(1, (toy.FRAMES, -1))
        plain += (ours - theirs).square().mean().item()
        relative += ((ours - theirs).square().mean((2, 3)) / theirs.square().mean((2, 3))).mean().item()
    for normalised, expected in ((False, plain), (True, relative)):
        loss = IndividualContentLoss(normalised=normalised)
        loss.prepare(bench)
        assert loss(step).item() == pytest.approx(expected, rel=1e-5)


@given(factor=st.floats(1e-3, 1e3))
def test_normalised_it_does_not_depend_on_a_blocks_magnitude(factor: float) -> None:
    teacher, student = _pair()
    plain = _icd(student, teacher, blocks=ALL[:1])
    loud = [lambda x, f=factor: x.flatten(1, 2) * f for _ in range(2)]
    for model, lay in zip((teacher, student), loud, strict=True):
        model.blocks[0].lay = lay
    torch.testing.assert_close(_icd(student, teacher, blocks=ALL[:1]), plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        _icd(student, teacher, blocks=ALL[:1], normalised=False),
        _icd(*_pair()[::-1], blocks=ALL[:1], normalised=False) * factor**2,
        rtol=1e-4,
        atol=0,
    )


@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_a_mean_over_rows_however_a_batch_is_split(normalised: bool) -> None:
    bench = toy.bench(*_pair())
    loss = IndividualContentLoss(normalised=normalised)
    loss.prepare(bench)
    latents = _latents(4) * torch.tensor([1.0, 2, 3, 20]).reshape(4, 1, 1, 1, 1)
    whole = loss(toy.step(bench, latents))
    parts = [loss(toy.step(bench, latents[i : i + 1], first_row=i)) for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "pictures": lambda x: x.flatten(0, 1).transpose(1, 2).unflatten(2, (toy.HEIGHT, toy.WIDTH)),
    "clips": lambda x: x.permute(0, 3, 1, 2).unflatten(3, (toy.HEIGHT, toy.WIDTH)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_do_not_change_it(layout: str) -> None:
    torch.testing.assert_close(_icd(*_pair(LAYOUTS[layout])), _icd(*_pair()))


def test_text_tokens_do_not_count() -> None:
    def texted(noise: float) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([torch.full((len(x), 5, 8), noise), x.flatten(1, 2), x[:, 0, :2] + noise], 1)

    teacher, student = _pair()
    expected = _icd(student, teacher)
    for model, noise in ((teacher, 3.0), (student, 9.0)):
        for block in model.blocks:
            block.lay = texted(noise)
    torch.testing.assert_close(_icd(student, teacher, tokens_before=5, tokens_after=2), expected)
    with pytest.raises(ModelError, match=r"blocks\.0.*tokens_before"):
        _icd(student, teacher)


def test_only_the_student_gathers_gradients() -> None:
    teacher, student = _pair()
    _icd(student, teacher).backward()
    assert all(each.grad is None for each in teacher.parameters())
    assert all(each.grad is not None for each in student.enter.parameters())


def test_autocast_leaves_it_in_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert _icd(*_pair()).dtype == torch.float32


def test_features_of_unlike_shapes_are_refused() -> None:
    teacher, student = _pair()
    student.blocks[1].lay = lambda x: x.flatten(1, 2)[..., :4]
    with pytest.raises(ModelError, match=r"blocks\.1 puts out \[2, 48, 8\].*\[2, 48, 4\]"):
        _icd(student, teacher)


def test_blocks_that_are_not_matched_are_refused() -> None:
    with pytest.raises(ModelError, match=r"blocks\.7.*did you mean"):
        _icd(*_pair(), blocks=["blocks.7"])
    bench = toy.bench(*_pair(), matched=[])
    with pytest.raises(ModelError, match="no block"):
        IndividualContentLoss().prepare(bench)


def test_it_says_what_it_was_made_with() -> None:
    said = IndividualContentLoss(blocks=ALL[:1]).options()
    assert said == {
        "weight": 0.1,
        "blocks": ["blocks.0"],
        "normalised": True,
        "tokens_before": 0,
        "tokens_after": 0,
    }
    assert IndividualContentLoss(**said).options() == said
