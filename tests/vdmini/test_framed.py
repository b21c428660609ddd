"""`framed`: frames stay frames in every layout, nothing is lost, and what is no such layout is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from f3core_vdmini.framed import Grid, framed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from f3core.errors import ModelError, PluginError

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
    assert torch.equal(framed("block", laid, Grid(rows, frames, (height, width))), feature)


@given(
    rows=FEW, frames=st.integers(1, 4), positions=st.integers(1, 5), before=st.integers(0, 3), after=st.integers(0, 3)
)
def test_text_tokens_are_left_out(rows: int, frames: int, positions: int, before: int, after: int) -> None:
    numbers = torch.arange(frames).repeat_interleave(positions)
    tokens = torch.cat([torch.full((before,), -1), numbers, torch.full((after,), -2)])
    sequence = tokens[None, :, None].expand(rows, -1, 2)
    got = framed("block", sequence, Grid(rows, frames, beside=(before, after)))
    assert torch.equal(got, torch.arange(frames)[None, :, None, None].expand(rows, frames, positions, 2))


@pytest.mark.parametrize(
    "shape",
    [
        (2, 13, 8),
        (2, 1, 8),
        (2, 10, 8),
        (7, 4, 8),
        (4, 4, 8),
        (2, 8, 4, 4),
        (2, 3, 4, 4, 8),
        (3, 8, 3, 4, 4),
        (6, 8),
        (6,),
        (),
    ],
    ids=str,
)
def test_other_shapes_are_refused_with_block_and_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as refused:
        framed("down_blocks.1", torch.zeros(shape), Grid(2, 3, (4, 4)))
    assert "down_blocks.1" in str(refused.value)
    assert str(list(shape)) in str(refused.value)


@given(patch=st.integers(1, 4), frames=st.integers(2, 6), height=st.integers(4, 9), width=st.integers(4, 9))
def test_patches_of_any_size_are_positions(patch: int, frames: int, height: int, width: int) -> None:
    """Edges that are left over are cut or filled up, as models do."""
    for positions in ((height // patch) * (width // patch), -(-height // patch) * -(-width // patch)):
        numbers = torch.arange(frames).repeat_interleave(positions)[None, :, None]
        got = framed("block", numbers, Grid(1, frames, (height, width)))
        assert torch.equal(got, torch.arange(frames)[None, :, None, None].expand(1, frames, positions, 1))


def test_two_frames_may_be_one_token() -> None:
    sequence = torch.arange(2).repeat_interleave(16)[None, :, None]
    got = framed("block", sequence, Grid(1, 4, (8, 8)))
    assert torch.equal(got, torch.arange(2)[None, :, None, None].expand(1, 2, 16, 1))


def test_tokens_that_no_grid_has_are_refused_even_where_they_divide_into_frames() -> None:
    """Nine tokens of history before six of the clip would otherwise pass for three frames of five positions."""
    grid = Grid(2, 3, (2, 4))
    with pytest.raises(ModelError, match=r"3 latent frames of 2 × 4\).*tokens_before"):
        framed("blocks.0", torch.zeros(2, 15, 8), grid)
    assert framed("blocks.0", torch.zeros(2, 15, 8), replace(grid, beside=(9, 0))).shape == (2, 3, 2, 8)


def test_tokens_beside_that_do_not_fit_are_refused() -> None:
    for beside in ((1, 0), (12, 0), (9, 9)):
        with pytest.raises(ModelError, match=f"{beside[0]} and {beside[1]} tokens beside"):
            framed("blocks.0", torch.zeros(2, 12, 8), Grid(2, 3, beside=beside))


def test_fewer_tokens_than_none_are_refused() -> None:
    with pytest.raises(PluginError, match="not -2"):
        Grid(2, 3, beside=(0, -2))


def test_gradients_pass_through() -> None:
    pictures = torch.randn(6, 4, 2, 2, requires_grad=True)
    framed("block", pictures, Grid(2, 3))[1, 2].sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.flatten(1).any(1).tolist() == [False] * 5 + [True]
