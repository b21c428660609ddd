"""CogVideo's transformer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from f3core.errors import ModelError
from f3core_cogvideo.cache import KVCache
from f3core_cogvideo.channels import BaseAttention, PlusAttention
from f3core_cogvideo.config import FRAME_START, CogVideoConfig
from f3core_cogvideo.published import to_own_names_, to_published_names
from f3core_cogvideo.tokens import Step, Tokens


class Mlp(nn.Module):
    """Feed-forward, four times as wide, GELU in its tanh form."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden, 4 * hidden)
        self.dense_4h_to_h = nn.Linear(4 * hidden, hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate="tanh"))


class Layer(nn.Module):
    """Attention and feed-forward, each between two layer norms."""

    def __init__(self, config: CogVideoConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden)
        self.attention = BaseAttention(config, index)
        self.attention_plus = PlusAttention(config, index)
        self.third_layernorm = nn.LayerNorm(config.hidden)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden)
        self.mlp = Mlp(config.hidden)
        self.fourth_layernorm = nn.LayerNorm(config.hidden)

    def forward(self, hidden: Tensor, tokens: Tokens | Step, *, temporal: bool) -> Tensor:
        """[B, L, C] to the same shape; ``temporal`` False leaves the temporal channel out."""
        normed = self.input_layernorm(hidden)
        attended = self.attention(normed, tokens)
        if temporal:
            attended = self.attention_plus(attended, normed, tokens)
        hidden = hidden + self.third_layernorm(attended)
        return hidden + self.fourth_layernorm(self.mlp(self.post_attention_layernorm(hidden)))


class Transformer(nn.Module):
    """Embeddings, layers, final norm; a namespace that gives parameters their published names."""

    def __init__(self, config: CogVideoConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab, config.hidden)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.extra_position_embeddings = nn.Embedding(config.additional, config.hidden)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.final_layernorm = nn.LayerNorm(config.hidden)


class CogVideoTransformer(nn.Module):
    """A sequence [text; frame 1; ...; frame F] of ids to logits, one row an id.

    ``CogVideoConfig.start_of_image`` says which token a row predicts.

    Both stages: what differs is which frames see which (`CogVideoConfig.stage`). Loads its own and the published
    parameter names, `load_state_dict(..., strict=True)`.
    """

    def __init__(self, config: CogVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.recorded: Mapping[str, Any] | None = None
        """the plan by which it was pruned, as ``config.json`` carries it"""
        self.transformer = Transformer(config)
        self.register_load_state_dict_pre_hook(_rename)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        return self.transformer.word_embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.word_embeddings.weight.dtype

    def published_state_dict(self) -> dict[str, Tensor]:
        """The parameters under their published names."""
        return to_published_names(self.state_dict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write sizes, plan and weights."""
        from f3core_cogvideo.folder import save_transformer

        save_transformer(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype | None = None) -> CogVideoTransformer:
        """What `save_pretrained` wrote, pruned if that was. Raises `ModelError`."""
        from f3core_cogvideo.folder import load_transformer

        return load_transformer(Path(folder), dtype=dtype)

    def usual_positions(self, batch: int, length: int) -> Tensor:
        """Int64 [batch, length]: text from 0, frame tokens from `FRAME_START` on."""
        place = torch.arange(length, device=self.device)
        text = self.config.text
        return torch.where(place < text, place, place - text + FRAME_START).expand(batch, -1)

    def fed(self, frames: Tensor) -> Tensor:
        """What the slots of whole frames [B, F, S] of tokens are fed, [B, F·S]."""
        start = self.config.start_of_image
        if start is not None:
            frames = torch.cat([torch.full_like(frames[..., :1], start), frames[..., :-1]], dim=-1)
        return frames.flatten(1)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        text_mask: Tensor,
        *,
        temporal: bool = True,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits, float [B, L, V].

        ``input_ids`` and ``position_ids`` int64 [B, L], the whole text and then frames as `fed` gives them, the last of
        which may be cut short in stage 1; ``text_mask`` [B, 1, 1, T], 0 where a text token is padding. ``temporal``
        False leaves the temporal channel out of every layer, as the first frame is generated. With ``cache``, the
        tokens go on where the last forward with it ended. Raises `ModelError` for a length that is no such sequence.
        """
        text_mask = text_mask.bool()
        if cache is not None:
            return self._cached(input_ids, position_ids, text_mask, cache, temporal)
        return self._whole(input_ids, position_ids, text_mask, temporal)

    def _whole(self, input_ids: Tensor, position_ids: Tensor, text_mask: Tensor, temporal: bool) -> Tensor:
        text, size, length = self.config.text, self.config.tokens, input_ids.shape[1]
        frames = -(-(length - text) // size)
        missing = text + frames * size - length
        if length < text or frames > self.config.frames or (missing and self.config.stage == 2):
            raise ModelError(f"{length} tokens are no text of {text} and up to {self.config.frames} frames of {size}")
        if missing:  # in stage 1 nothing sees what comes after it
            input_ids = torch.cat([input_ids, input_ids[:, -1:].expand(-1, missing)], dim=1)
            position_ids = torch.cat([position_ids, position_ids[:, -1:].expand(-1, missing)], dim=1)
        tokens = Tokens(self.config, text_mask, tuple(range(frames)))
        return self._run(input_ids, position_ids, tokens, text + size, temporal)[:, :length]

    def _cached(
        self, input_ids: Tensor, position_ids: Tensor, text_mask: Tensor, cache: KVCache, temporal: bool
    ) -> Tensor:
        """Piece by piece: text and whole frames if the cache is empty, then what lies within one frame each."""
        text, size, length = self.config.text, self.config.tokens, input_ids.shape[1]
        made = []
        done = 0
        while done < length:
            tokens: Tokens | Step
            if cache.length:
                slot, place, count = cache.next(length - done, temporal)
                number = cache.order[slot]
                tokens = Step(self.config, text_mask, cache, number, slot, place, count)
                base = 0 if number else count
            else:
                frames = cache.first(length, temporal)
                count, base = text + frames * size, text + size
                tokens = Tokens(self.config, text_mask, cache.order[:frames], cache)
            piece = slice(done, done + count)
            made.append(self._run(input_ids[:, piece], position_ids[:, piece], tokens, base, temporal))
            cache.length += count
            done += count
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)

    def _run(self, input_ids: Tensor, position_ids: Tensor, tokens: Tokens | Step, base: int, temporal: bool) -> Tensor:
        """Logits; the first ``base`` places have the base position table, all others their own."""
        parts = self.transformer
        position = parts.position_embeddings(position_ids[:, :base])
        if position_ids.shape[1] > base:
            start = FRAME_START + self.config.tokens  # of the second frame
            later = parts.extra_position_embeddings(position_ids[:, base:] - start)
            position = torch.cat([position, later], dim=1)
        hidden = parts.word_embeddings(input_ids) + position
        for layer in parts.layers:
            hidden = layer(hidden, tokens, temporal=temporal)
        words = parts.word_embeddings.weight[: self.config.image_vocab]
        return F.linear(parts.final_layernorm(hidden), words)


def _rename(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    to_own_names_(state_dict, prefix)
