"""`framed`: frames stay frames in every layout, nothing is lost, and what is no such layout is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from f3core_vdmini.framed import framed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from f3core.errors import ModelError

LAYOUTS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "tokens of all frames": lambda x, _: x.flatten(1, 2),
    "tokens of each frame": lambda x, _: x.flatten(0, 1),
    "frames at each position": lambda x, _: x.transpose(1, 2).flatten(0, 1),
    "pictures": lambda x, hw: x.flatten(0, 1).transpose(1, 2).unflatten(2, hw),
    "clips": lambda x, hw: x.permute(0, 3, 1, 2).unflatten(3, hw),
}
FEW = st.integers(1, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(rows=FEW, frames=st.integers(2, 4), height=st.integers(2, 3), width=st.integers(3, 4), channels=FEW)
def test_it_undoes_every_layout(layout: str, rows: int, frames: int, height: int, width: int, channels: int) -> None:
    """A feature of distinct numbers comes back number for number, so each stays in its row, frame and position."""
    feature = torch.arange(rows * frames * height * width * channels).reshape(rows, frames, height * width, channels)
    laid = LAYOUTS[layout](feature, (height, width))
    assert torch.equal(framed("block", laid, rows, frames), feature)


@given(
    rows=FEW, frames=st.integers(1, 4), positions=st.integers(1, 5), before=st.integers(0, 3), after=st.integers(0, 3)
)
def test_text_tokens_are_left_out(rows: int, frames: int, positions: int, before: int, after: int) -> None:
    numbers = torch.arange(frames).repeat_interleave(positions)
    tokens = torch.cat([torch.full((before,), -1), numbers, torch.full((after,), -2)])
    sequence = tokens[None, :, None].expand(rows, -1, 2)
    got = framed("block", sequence, rows, frames, (before, after))
    assert torch.equal(got, torch.arange(frames)[None, :, None, None].expand(rows, frames, positions, 2))


@pytest.mark.parametrize(
    "shape",
    [(2, 13, 8), (2, 2, 8), (7, 4, 8), (4, 4, 8), (2, 8, 4, 4), (2, 3, 4, 4, 8), (3, 8, 3, 4, 4), (6, 8), (6,), ()],
    ids=str,
)
def test_other_shapes_are_refused_with_block_and_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as refused:
        framed("down_blocks.1", torch.zeros(shape), 2, 3)
    assert "down_blocks.1" in str(refused.value)
    assert str(list(shape)) in str(refused.value)


def test_text_that_does_not_fit_is_refused() -> None:
    for text in ((1, 0), (12, 0), (9, 9)):
        with pytest.raises(ModelError, match="tokens of text"):
            framed("blocks.0", torch.zeros(2, 12, 8), 2, 3, text)


def test_gradients_pass_through() -> None:
    pictures = torch.randn(6, 4, 2, 2, requires_grad=True)
    framed("block", pictures, 2, 3)[1, 2].sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.flatten(1).any(1).tolist() == [False] * 5 + [True]
