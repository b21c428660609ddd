"""Heads of the discriminator: what each sees, and the hinge loss."""

from __future__ import annotations

import pytest
import torch
from f3core_vdmini.heads import FRAMES, POSITIONS, Discriminator, Head, hinge, mean_score
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

BLOCKS = {"blocks.0": 8, "blocks.5": 12}


def _made(width: int = 16) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(BLOCKS, width)


def _features(rows: int = 2, frames: int = 5, seed: int = 1) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    sizes = {"blocks.0": 12, "blocks.5": 6}
    return {
        path: torch.randn(rows, frames, sizes[path], width, generator=source) * 10 for path, width in BLOCKS.items()
    }


def test_every_block_has_two_scores_for_every_position_of_every_frame() -> None:
    scores = _made()(_features())
    assert [tuple(each.shape) for each in scores] == [(2, 5, 12), (2, 5, 12), (2, 5, 6), (2, 5, 6)]


@given(order=st.permutations(range(5)))
def test_spatial_heads_do_not_see_the_order_of_frames_and_temporal_ones_do(order: list[int]) -> None:
    made, features = _made(), _features()
    plain = made(features)
    moved = made({path: each[:, order] for path, each in features.items()})
    for spatial, temporal in ((0, 1), (2, 3)):
        assert torch.allclose(plain[spatial][:, order], moved[spatial], atol=1e-5)
        assert torch.allclose(plain[temporal][:, order], moved[temporal], atol=1e-5) == (order == sorted(order))


@given(order=st.permutations(range(12)))
def test_temporal_heads_do_not_see_where_they_are_and_spatial_ones_do(order: list[int]) -> None:
    made, features = _made(), _features()
    spatial, temporal = made(features)[:2]
    features["blocks.0"] = features["blocks.0"][:, :, order]
    moved_spatial, moved_temporal = made(features)[:2]
    assert torch.allclose(temporal[:, :, order], moved_temporal, atol=1e-5)
    if order != sorted(order):
        assert not torch.allclose(spatial[:, :, order], moved_spatial, atol=1e-5)


def test_rows_do_not_see_each_other() -> None:
    made, features = _made(), _features(rows=3)
    together = made(features)
    alone = made({path: each[1:2] for path, each in features.items()})
    for all_rows, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_rows[1:2], one, atol=1e-5, rtol=1e-5)


@given(scale=st.floats(0.1, 1000), shift=st.floats(-10, 10))
def test_the_scale_of_features_does_not_count(scale: float, shift: float) -> None:
    head = _made().spatial[0]
    tokens = _features()["blocks.0"][0]
    torch.testing.assert_close(head(tokens * scale + shift), head(tokens), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("reach", [POSITIONS, FRAMES])
@pytest.mark.parametrize("length", [1, 2, 20])
def test_heads_take_any_length(reach: int, length: int) -> None:
    assert Head(8, 12, reach)(torch.randn(3, length, 8)).shape == (3, length)


def test_heads_take_half_precision() -> None:
    head = Head(8, 16, 3)
    assert head(torch.randn(2, 4, 8, dtype=torch.bfloat16)).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.randn(2, 4, 8)).dtype == torch.float32


@given(
    real=st.lists(st.lists(st.floats(-4, 4), min_size=1, max_size=6), min_size=1, max_size=3),
    fake=st.lists(st.lists(st.floats(-4, 4), min_size=1, max_size=6), min_size=1, max_size=3),
)
def test_the_hinge_is_its_formula_and_heads_count_the_same(real: list[list[float]], fake: list[list[float]]) -> None:
    def direct(scores: list[list[float]], sign: int) -> float:
        heads = [sum(max(0.0, 1 + sign * x) for x in head) / len(head) for head in scores]
        return sum(heads) / len(heads)

    of = [[torch.tensor(head, dtype=torch.float64) for head in scores] for scores in (real, fake)]
    assert float(hinge(*of)) == pytest.approx(direct(real, -1) + direct(fake, 1), abs=1e-9)
    assert float(mean_score(of[1])) == pytest.approx(sum(sum(h) / len(h) for h in fake) / len(fake), abs=1e-9)


def test_a_discriminator_learns_to_tell_shuffled_frames_by_its_temporal_heads_alone() -> None:
    """Clips whose features grow from frame to frame, and the same in the order of another clip's: any one frame, and so
    any spatial head, tells nothing."""
    torch.manual_seed(0)
    head = Head(4, 16, FRAMES)
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    direction = torch.randn(4)

    def clips(count: int) -> tuple[Tensor, Tensor]:
        ordered = torch.arange(6.0)[None, :, None] * direction + torch.randn(count, 1, 4) * 0.1
        return ordered, ordered.flip(1)

    for _ in range(60):
        optimiser.zero_grad()
        real, fake = clips(16)
        hinge([head(real)], [head(fake)]).backward()
        optimiser.step()
    real, fake = (head(each).mean().item() for each in clips(16))
    assert real > 0.5
    assert fake < -0.5
