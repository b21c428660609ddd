"""Cached decoding: the same logits as at once, and no more kept than can be seen."""

from __future__ import annotations

import pytest
import tiny_cogvideo
import torch
from cogvideo_strategies import models
from f3core_cogvideo.cache import KVCache
from f3core_cogvideo.model import CogVideoTransformer
from f3core_cogvideo.visibility import Sees, given
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from f3core.attention import Bypass
from f3core.errors import ModelError


def in_order(cache: KVCache) -> torch.Tensor:
    """Places of the sequence in the order in which a cache wants them."""
    sizes = cache.config
    frames = [sizes.text + f * sizes.tokens + torch.arange(sizes.tokens) for f in cache.order]
    return torch.cat([torch.arange(sizes.text), *frames])


@settings(deadline=None, max_examples=40)
@for_all(models(), st.booleans(), st.data())
@torch.no_grad()
def test_cached_equals_at_once(model: CogVideoTransformer, temporal: bool, data: st.DataObject) -> None:
    inputs = tiny_cogvideo.sequence(model)
    sizes, cache = model.config, KVCache(model.config)
    order = in_order(cache)
    length = sizes.text + sizes.tokens * sum(given(sizes.stage, f) for f in cache.order)
    end = data.draw(st.integers(length, len(order)))
    made, start = [], 0
    while start < len(order):
        part = order[start:end]
        ids, positions = (inputs[k][:, part] for k in ("input_ids", "position_ids"))
        made.append(model(ids, positions, inputs["text_mask"], temporal=temporal, cache=cache))
        start, end = end, min(len(order), end + data.draw(st.integers(1, 6)))
    assert (torch.cat(made, dim=1) - model(**inputs, temporal=temporal)[:, order]).abs().max() < 1e-4
    assert cache.length == len(order)


def rooms(model: CogVideoTransformer) -> dict[str, tuple[int, int]]:
    """Tokens of text and of frames that each channel of the only layer keeps."""
    inputs, cache = tiny_cogvideo.sequence(model), KVCache(model.config)
    with torch.no_grad():
        model(**inputs, cache=cache)
    return {name: (h.text, h.frames * model.config.tokens) for (_, name), h in cache.held.items()}


@pytest.mark.parametrize(
    ("base", "plus", "kept"),
    [
        (Sees(), Sees(), {"base": (5, 9), "plus": (5, 45)}),
        (Sees(), Sees(earlier=False), {"base": (5, 9), "plus": (5, 9)}),
        (Sees(), Sees(own=False), {"base": (5, 9), "plus": (5, 45)}),
        (Sees(text=False), Sees(text=False), {"base": (0, 9), "plus": (0, 45)}),
        (Sees(own=False), Sees(earlier=False, own=False), {"base": (5, 0), "plus": (5, 0)}),
        (Sees(own=False), None, {"base": (5, 0)}),
        (Sees(text=False, own=False), Sees(False, False, False), {}),
    ],
)
def test_a_channel_keeps_what_it_can_still_see(base: Sees, plus: Sees | None, kept: dict[str, tuple[int, int]]) -> None:
    model = tiny_cogvideo.transformer(layers=1)
    (layer,) = model.transformer.layers
    layer.attention.sees = base
    if plus is None:
        layer.attention_plus = Bypass()
    else:
        layer.attention_plus.sees = plus
    assert rooms(model) == kept


def test_bytes_count_keys_and_values() -> None:
    model = tiny_cogvideo.transformer(layers=2)
    cache = KVCache(model.config)
    model(**tiny_cogvideo.sequence(model), cache=cache)
    assert cache.bytes == 2 * 2 * 2 * ((5 + 9) + (5 + 45)) * 32 * 4  # layers, K and V, rows, tokens, channels, bytes


def test_wrong_beginnings_and_ends_are_named() -> None:
    model = tiny_cogvideo.transformer()
    inputs = tiny_cogvideo.sequence(model)
    one = {**inputs, "input_ids": inputs["input_ids"][:, :1], "position_ids": inputs["position_ids"][:, :1]}
    with pytest.raises(ModelError, match="needs the whole text of 5 tokens, not 1"):
        model(**one, cache=KVCache(model.config))
    cache = KVCache(model.config)
    model(**inputs, cache=cache)
    with pytest.raises(ModelError, match="the cache is full: its sequence has 5 frames of 9 tokens"):
        model(**one, cache=cache)
    with pytest.raises(ModelError, match="begun without the temporal channel"):
        model(**one, cache=cache, temporal=False)


def test_stage_2_needs_its_given_frames_at_once() -> None:
    model = tiny_cogvideo.transformer(stage=2)
    inputs = tiny_cogvideo.sequence(model, frames=2)
    with pytest.raises(ModelError, match="whole text of 5 tokens and 3 given frames of 9, not 23"):
        model(**inputs, cache=KVCache(model.config))
