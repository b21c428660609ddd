"""Forwards that read values, which meta tensors do not have, are counted all the same, or refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import MochiTransformer3DModel
from torch import Tensor, nn

from f3core.errors import CountingError
from f3core.flops import count
from f3core.meta import meta_copy, on_meta


@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_a_text_mask_that_picks_tokens_counts_all_of_them_on_meta() -> None:
    """Mochi attends to the tokens that its mask marks; with all of them marked, that is the upper bound."""
    model = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=8,
        in_channels=4, text_embed_dim=16, time_embed_dim=8,
    ).eval()  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(1, 4, 3, 4, 6),
        "encoder_hidden_states": torch.randn(1, 7, 16),
        "timestep": torch.tensor([500]),
        "encoder_attention_mask": torch.ones(1, 7, dtype=torch.bool),
    }
    bound = count(meta_copy(model), on_meta(inputs))
    assert bound == count(model, inputs)
    inputs["encoder_attention_mask"][:, 4:] = False
    assert bound.operators["attention"] - count(model, inputs).operators["attention"] > 0
    assert bound == count(meta_copy(model), on_meta(inputs))


class Asking(nn.Module):
    """Multiplies by one matrix where anything is true, and by another, twice where ``unlike``, where nothing is."""

    def __init__(self, *, unlike: bool) -> None:
        super().__init__()
        self.one, self.other, self.unlike = nn.Linear(4, 4), nn.Linear(4, 4), unlike

    def forward(self, x: Tensor) -> Tensor:
        if (x > 0).any():
            return self.one(x)
        return self.other(self.other(x)) if self.unlike else self.other(x + 1)


def test_what_a_value_decides_is_counted_on_meta_where_both_ways_cost_the_same() -> None:
    inputs = {"x": torch.ones(3, 4, device="meta")}
    with pytest.raises(CountingError, match="Asking computes by the value of a tensor what takes 96 or 48 MACs"):
        count(meta_copy(Asking(unlike=True)), inputs)
    with pytest.raises(CountingError, match="48 or 48 MACs"):  # of other modules
        count(meta_copy(Asking(unlike=False)), inputs)
    same = Asking(unlike=False)
    same.other = same.one
    assert count(meta_copy(same), inputs).total == 48


def test_what_a_mask_leaves_is_none_on_meta_once_it_has_picked() -> None:
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            return self.linear(torch.stack([torch.cat([row[m], row[~m]]) for row, m in zip(x, keep, strict=True)]))

    inputs = {"x": torch.ones(2, 3, 4), "keep": torch.tensor([[True, False, True], [False, True, True]])}
    model = Sorting()
    assert count(meta_copy(model), on_meta(inputs)).total == count(model, inputs).total == 2 * 3 * 4 * 4


def test_what_is_cut_at_a_length_that_a_tensor_tells_is_counted_whole_on_meta() -> None:
    class Cutting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            marked = torch.zeros_like(mask)
            marked[0, : mask.sum(1)[0]] = 1
            return self.linear(x[:, : marked.sum(1)[0]])

    inputs = {"x": torch.ones(1, 3, 4), "mask": torch.tensor([[1, 1, 0]])}
    model = Cutting()
    assert count(model, inputs).total == 2 * 4 * 4
    assert count(meta_copy(model), on_meta(inputs)).total == 3 * 4 * 4
