"""Reduced keys in CogVideo: a frame that is made token by token sees what it sees at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import tiny_cogvideo
import torch
from f3core_cogvideo.adapter import CogVideoAdapter
from f3core_cogvideo.cache import KVCache
from f3core_cogvideo.visibility import given

from f3core.errors import ModelError
from f3core.meta import share_copy
from f3core.reducing import Reduction
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_all_

ADAPTER = CogVideoAdapter()


def reduced(method: str, keep: float, model: Any = None) -> Any:
    model = tiny_cogvideo.transformer() if model is None else share_copy(model)
    reduction = Reduction(installed().make("method", method), keep)
    restrict_all_(model, ADAPTER, "transformer", AttentionKind.TEMPORAL, Removal.REDUCE, reduction)
    return model


@torch.no_grad()
def piece_by_piece(model: Any, sizes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the frames that are made, in pieces of ``sizes`` tokens of each frame, and of all at once."""
    torch.manual_seed(3)
    inputs, config, cache = tiny_cogvideo.sequence(model), model.config, KVCache(model.config)
    known = max(1, sum(given(config.stage, f) for f in cache.order))
    frames = [config.text + f * config.tokens + torch.arange(config.tokens) for f in cache.order]
    begun = [torch.arange(config.text), *frames[:known]]
    parts = [torch.cat(begun), *(part for frame in frames[known:] for part in frame.split(list(sizes)))]
    made = []
    for part in parts:
        ids, positions = (inputs[name][:, part] for name in ("input_ids", "position_ids"))
        made.append(model(ids, positions, inputs["text_mask"], cache=cache))
    return torch.cat(made[1:], dim=1), model(**inputs)[:, torch.cat(parts[1:])]


@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (4, 5)])
@pytest.mark.parametrize("method", ["tome", "tomesd"])
def test_pieces_see_what_whole_frames_see(method: str, sizes: tuple[int, ...]) -> None:
    """What is chosen does not depend on the queries, by these methods."""
    cached, whole = piece_by_piece(reduced(method, 0.5), sizes)
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["token_pruning", "evit", "tps"])
def test_what_queries_choose_is_chosen_by_the_first_ones(method: str) -> None:
    cached, whole = piece_by_piece(reduced(method, 0.5), (1,) * 9)
    assert torch.isfinite(cached).all()
    assert not torch.allclose(cached, whole), "at once, all queries of a frame choose together"
    at_once, whole = piece_by_piece(reduced(method, 0.5), (9,))
    torch.testing.assert_close(at_once, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", [-1, 3])
def test_stage_2_without_other_frames_is_self_only(window: int) -> None:
    model = tiny_cogvideo.transformer(stage=2, window=window, start_of_image=None)
    cached, whole = piece_by_piece(reduced("tome", 0.0, model), (1,) * 9)
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=1e-4)
    own = share_copy(model)
    restrict_all_(own, ADAPTER, "transformer", AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    torch.testing.assert_close(whole, piece_by_piece(own, (9,))[1], atol=1e-4, rtol=1e-4)
    half = piece_by_piece(reduced("tome", 0.5, model), (2, 7))[0]
    assert torch.isfinite(half).all()


def test_two_sequences_may_take_turns() -> None:
    model = reduced("tome", 0.5)
    parts = [slice(0, 14), *(slice(i, i + 1) for i in range(14, 32))]
    both = [(tiny_cogvideo.sequence(model), KVCache(model.config)) for _ in range(2)]
    made: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        for part in parts:
            for i, (inputs, cache) in enumerate(both):
                ids, positions = (inputs[name][:, part] for name in ("input_ids", "position_ids"))
                made[i].append(model(ids, positions, inputs["text_mask"], cache=cache))
        for i, (inputs, _) in enumerate(both):
            torch.testing.assert_close(torch.cat(made[i], dim=1), model(**inputs)[:, :32], atol=1e-4, rtol=1e-4)


def test_a_piece_over_two_frames_is_refused() -> None:
    model = reduced("tome", 0.5)
    inputs, cache = tiny_cogvideo.sequence(model), KVCache(model.config)

    def run(part: slice) -> None:
        ids, positions = (inputs[name][:, part] for name in ("input_ids", "position_ids"))
        model(ids, positions, inputs["text_mask"], cache=cache)

    run(slice(0, 14))
    with pytest.raises(ModelError, match="layout is unknown"):
        run(slice(14, 30))
