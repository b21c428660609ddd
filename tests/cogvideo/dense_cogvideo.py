"""CogVideo computed the plain way: every query against every key, a matrix saying who sees whom. Whole frames only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from f3core_cogvideo.model import CogVideoTransformer
from f3core_cogvideo.visibility import Sees, noise_level
from torch import Tensor
from torch.nn import functional as F


def swin_window(row: int, column: int, side: int, window: int, shift: int) -> tuple[int, int, int, int]:
    """What two tokens must share to see each other: the rolled window, and the side of the border it wraps around."""

    def along(x: int) -> tuple[int, int]:
        rolled = (x - shift) % side
        return rolled // window, int(rolled >= side - shift)

    return (*along(row), *along(column))


def visible(model: CogVideoTransformer, layer: int, frames: int, *, temporal: bool, seen: Callable[[float], Sees]):
    """Bool [L, L] without padding: does the query of a row see the key of a column."""
    sizes = model.config
    tokens = [(-1, 0)] * sizes.text + [(f, p) for f in range(frames) for p in range(sizes.tokens)]
    shift = sizes.window // 2 if layer % 2 else 0

    kinds = [seen(noise_level(sizes.stage, frame, sizes.frames)) for frame in range(frames)]

    def window(place: int) -> object:
        if not temporal or sizes.window == -1:
            return None
        return swin_window(place // sizes.side, place % sizes.side, sizes.side, sizes.window, shift)

    def sees(query: tuple[int, int], key: tuple[int, int]) -> bool:
        (frame, place), (other, at) = query, key
        if frame == -1 or other == -1:
            return other == -1 and (frame == -1 or kinds[frame].text)
        if frame == other:
            free = sizes.stage == 2 and frame % 2 == 0
            return kinds[frame].own and window(place) == window(at) and (free or at <= place)
        allowed = other < frame if sizes.stage == 1 else other % 2 == 0 or (frame % 2 == 1 and other < frame)
        return temporal and kinds[frame].earlier and allowed and window(place) == window(at)

    return torch.tensor([[sees(query, key) for key in tokens] for query in tokens])


def attention(channel: torch.nn.Module, hidden: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Context [B, L, C] under ``mask`` [B, L, L]; zeros where nothing is seen."""
    query, key, value = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in channel.query_key_value(hidden).chunk(3, dim=-1)
    )
    scores = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~mask[:, None], -torch.inf)
    return (scores.softmax(-1).nan_to_num(0.0) @ value).transpose(1, 2).flatten(2)


def logits(model: CogVideoTransformer, inputs: dict[str, Tensor], *, temporal: bool = True) -> Tensor:
    """What the model should give."""
    sizes, parts = model.config, model.transformer
    ids, positions = inputs["input_ids"], inputs["position_ids"]
    batch, length = ids.shape
    text, frames = sizes.text, (length - sizes.text) // sizes.tokens
    seen = torch.ones(batch, 1, length, dtype=torch.bool)
    seen[:, 0, :text] = inputs["text_mask"][:, 0, 0].bool()
    base = min(length, sizes.layout[1])
    later = parts.extra_position_embeddings.weight[positions[:, base:] - 512 - sizes.tokens]
    hidden = parts.word_embeddings(ids) + torch.cat([parts.position_embeddings.weight[positions[:, :base]], later], 1)
    for index, layer in enumerate(parts.layers):
        normed = layer.input_layernorm(hidden)

        def attended(channel: torch.nn.Module, plus: bool, normed: Tensor = normed, index: int = index) -> Tensor:
            mask = visible(model, index, frames, temporal=plus, seen=channel.seen)
            return channel.dense(attention(channel, normed, mask & seen, sizes.heads))

        out = attended(layer.attention, False)
        if temporal and hasattr(layer.attention_plus, "dense"):
            share = torch.sigmoid(layer.attention_plus.attn_distribution)
            mixture = share * out + (1 - share) * attended(layer.attention_plus, True)
            out = torch.cat([out[:, :text], mixture[:, text:]], dim=1)
        hidden = hidden + layer.third_layernorm(out)
        inner = layer.mlp.dense_4h_to_h(
            F.gelu(layer.mlp.dense_h_to_4h(layer.post_attention_layernorm(hidden)), approximate="tanh")
        )
        hidden = hidden + layer.fourth_layernorm(inner)
    return F.linear(parts.final_layernorm(hidden), parts.word_embeddings.weight[: sizes.image_vocab])
