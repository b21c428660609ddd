"""The two attention channels of a layer: base (text and own frame) and temporal (text and frames)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.stepping import attend_step
from f3core_cogvideo.tokens import Step, Tokens
from f3core_cogvideo.visibility import Narrowed, Sees, alike, other_frames, seen_at, windows


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor], mask: Tensor | None) -> Tensor:
    """Attention of [B, H, Lq, D] over the joined keys; zeros where there is none."""
    if not keys or not sum(key.shape[2] for key in keys):
        return torch.zeros_like(query)
    key = keys[0] if len(keys) == 1 else torch.cat(keys, dim=2)
    value = values[0] if len(values) == 1 else torch.cat(values, dim=2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def repeated(x: Tensor, times: int) -> Tensor:
    """[B, ...] to [B·times, ...], every row ``times`` times in a row."""
    return x if times == 1 else x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)


class Channel(nn.Module):
    """One attention with its own projections. ``sees`` says which kinds of keys frame tokens have, ``narrowed`` that
    they have fewer at some steps."""

    def __init__(self, config: CogVideoConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.sees = Sees()
        self.narrowed: Narrowed | None = None
        self.query_key_value = nn.Linear(config.hidden, 3 * config.hidden)
        self.dense = nn.Linear(config.hidden, config.hidden)

    def heads(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, H, L, D], of [B, L, C]."""
        query, key, value = self.query_key_value(hidden).unflatten(2, (3, self.config.heads, -1)).unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def seen(self, level: float) -> Sees:
        """The kinds of keys that tokens of a frame have at its noise level."""
        return seen_at(self.sees, self.narrowed, level)


class BaseAttention(Channel):
    """The channel of the picture model: text sees text, a frame token sees text and its own frame."""

    def forward(self, hidden: Tensor, tokens: Tokens | Step) -> Tensor:
        """[B, L, C] to the same shape."""
        query, key, value = self.heads(hidden)
        if isinstance(tokens, Step):
            sees = self.seen(tokens.level)
            context = attend_step(self.layer, "base", sees, query, key, value, tokens, history=False)
            return self.dense(context.transpose(1, 2).flatten(2))
        if tokens.cache is not None:
            tokens.cache.hold(self.layer, "base", self.sees, (key, value), self.config.text, history=False)
        return self.dense(self._whole(query, key, value, tokens).transpose(1, 2).flatten(2))

    def _whole(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tokens) -> Tensor:
        """Context of a whole sequence, [B, H, T + F·S, D]."""
        text = self.config.text
        context = [attend(query[:, :, :text], [key[:, :, :text]], [value[:, :, :text]], tokens.text_keys())]
        if tokens.numbers:
            context.append(self._frames(query, key, value, tokens))
        return torch.cat(context, dim=2)

    def _frames(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tokens) -> Tensor:
        """Frames folded into the batch, those together that see the same: [B, H, F·S, D]."""
        text, size = self.config.text, self.config.tokens
        texts = key[:, :, :text], value[:, :, :text]
        frames = [x[:, :, text:].unflatten(2, (-1, size)) for x in (query, key, value)]
        groups = alike(tokens.numbers, lambda number: self.seen(tokens.level(number)))
        if len(groups) == 1:
            return self._alike(groups[0][0], frames, texts, tokens.numbers, tokens).flatten(2, 3)
        out = torch.empty_like(frames[0])
        for sees, places in groups:
            some = [x[:, :, places] for x in frames]
            out[:, :, places] = self._alike(sees, some, texts, tuple(tokens.numbers[p] for p in places), tokens)
        return out.flatten(2, 3)

    def _alike(
        self, sees: Sees, frames: list[Tensor], texts: tuple[Tensor, Tensor], numbers: tuple[int, ...], tokens: Tokens
    ) -> Tensor:
        """Context [B, H, F, S, D] of F frames, queries, keys and values of that shape, that all see the same."""
        batch, count = frames[0].shape[0], len(numbers)
        query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in frames)
        keys, values = ([repeated(x, count)] if sees.text else [] for x in texts)
        if sees.own:
            keys, values = [*keys, key], [*values, value]
        mask = tokens.keys_mask(sees.text, 0, numbers if sees.own else (), self.config.tokens, count)
        return attend(query, keys, values, mask).unflatten(0, (batch, count)).transpose(1, 2)


class Mixed(nn.Module):
    """The linear map behind the temporal channel's attention as it reaches the mixture: (1 − σ(a)) ⊙ dense.

    Parameterless: it looks at its channel's own parameters.
    """

    channel: PlusAttention

    def __init__(self, channel: PlusAttention) -> None:
        super().__init__()
        vars(self)["channel"] = channel  # not a child: it is the parent

    @property
    def weight(self) -> Tensor:
        """[C, C]."""
        return self.channel.share[:, None] * self.channel.dense.weight

    def forward(self, context: Tensor) -> Tensor:
        return self.channel.share * self.channel.dense(context)


class PlusAttention(Channel):
    """The temporal channel: a frame token sees text, other frames and its own frame; mixed into the base channel."""

    def __init__(self, config: CogVideoConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.attn_distribution = nn.Parameter(torch.zeros(config.hidden))
        self.mixed = Mixed(self)
        self.windows = windows(config, layer)

    @property
    def share(self) -> Tensor:
        """[C], the share of this channel in the mixture."""
        return 1 - torch.sigmoid(self.attn_distribution)

    def forward(self, base: Tensor, hidden: Tensor, tokens: Tokens | Step) -> Tensor:
        """The mixture, [B, L, C], of the base channel's output ``base`` with attention over ``hidden``.

        Text tokens have the base channel alone.
        """
        if isinstance(tokens, Step):
            query, key, value = self.heads(hidden)
            sees = self.seen(tokens.level)
            context = attend_step(self.layer, "plus", sees, query, key, value, tokens, history=True)
            return self._mix(base, context)
        text = self.config.text
        known = text if self.sees.text else 0
        hidden = hidden[:, text - known :]  # nobody asks for keys of text that is not seen
        if not tokens.numbers and tokens.cache is None:
            return base
        query, key, value = self.heads(hidden)
        if tokens.cache is not None:
            tokens.cache.hold(self.layer, "plus", self.sees, (key, value), known, history=True)
        if not tokens.numbers:
            return base
        texts = [x[:, :, :known] for x in (key, value)] if known else []
        context = self._context(query[:, :, known:], key[:, :, known:], value[:, :, known:], texts, tokens)
        return torch.cat([base[:, :text], self._mix(base[:, text:], context)], dim=1)

    def _mix(self, base: Tensor, context: Tensor) -> Tensor:
        """Base output [B, L, C] and temporal context [B, H, L, D] of the same frame tokens to the mixture."""
        return torch.sigmoid(self.attn_distribution) * base + self.mixed(context.transpose(1, 2).flatten(2))

    def _context(self, query: Tensor, key: Tensor, value: Tensor, text: list[Tensor], tokens: Tokens) -> Tensor:
        """Context of the frame tokens, [B, H, F·S, D], from theirs and the ``text`` keys and values, if any."""
        groups = self.windows
        if len(groups) == len(groups[0]) == 1:
            q, k, v = (self._windowed(x, None) for x in (query, key, value))
            return self._group(q, k, v, text, tokens, 1).flatten(2, 3)
        out = torch.empty_like(query)
        for group in groups:
            index, repeat = tokens.places(group), len(group)
            texts = [repeated(x, repeat) for x in text]
            q, k, v = (self._windowed(x, index) for x in (query, key, value))
            made = self._group(q, k, v, texts, tokens, repeat)
            made = made.unflatten(0, (-1, repeat)).permute(0, 2, 3, 1, 4, 5)  # [B, H, F, R, a, D]
            out.unflatten(2, (-1, self.config.tokens))[:, :, :, index] = made
        return out

    def _windowed(self, x: Tensor, index: Tensor | None) -> Tensor:
        """[B, H, F·S, D] to [B·R, H, F, a, D] for R windows of a tokens, ``index`` [R, a]."""
        x = x.unflatten(2, (-1, self.config.tokens))
        if index is None:
            return x
        return x[:, :, :, index].permute(0, 3, 1, 2, 4, 5).flatten(0, 1)

    def _group(self, q: Tensor, k: Tensor, v: Tensor, texts: list[Tensor], tokens: Tokens, repeat: int) -> Tensor:
        """Attention within windows: q, k, v [B·R, H, F, a, D] and text keys and values [B·R, H, T, D]."""
        stage, numbers, size = self.config.stage, tokens.numbers, q.shape[3]
        seen = [self.seen(tokens.level(number)) for number in numbers]
        if len(set(seen)) == 1 and not seen[0].earlier:
            return self._own_only(seen[0], q, k, v, texts, tokens, repeat)
        made = []
        for place, (number, sees) in enumerate(zip(numbers, seen, strict=True)):
            others = [numbers.index(f) for f in other_frames(stage, number, numbers)] if sees.earlier else []
            frames = [*others, place] if sees.own else others
            keys, values = (texts[:1], texts[1:]) if sees.text else ([], [])
            if frames:
                keys, values = [*keys, _joined(k, frames)], [*values, _joined(v, frames)]
            own = (number,) if sees.own else ()
            mask = tokens.keys_mask(sees.text, len(others) * size, own, size, repeat)
            made.append(attend(q[:, :, place], keys, values, mask))
        return torch.stack(made, dim=2)

    def _own_only(
        self, sees: Sees, q: Tensor, k: Tensor, v: Tensor, texts: list[Tensor], tokens: Tokens, repeat: int
    ) -> Tensor:
        """The same with no other frame among the keys: frames folded into the batch, inside the windows."""
        frames, size = q.shape[2], q.shape[3]
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        keys, values = ([repeated(x, frames)] for x in texts) if sees.text else ([], [])
        if sees.own:
            keys, values = [*keys, k], [*values, v]
        own = tokens.numbers if sees.own else ()
        mask = tokens.keys_mask(sees.text, 0, own, size, repeat * frames)
        return attend(q, keys, values, mask).unflatten(0, (-1, frames)).transpose(1, 2)


def _joined(x: Tensor, frames: list[int]) -> Tensor:
    """Tokens of chosen frames of [B, H, F, a, D], [B, H, n·a, D]; a view where the frames lie next to each other."""
    if frames == list(range(frames[0], frames[0] + len(frames))):
        return x[:, :, frames[0] : frames[0] + len(frames)].flatten(2, 3)
    return torch.cat([x[:, :, f] for f in frames], dim=2)
