"""A small video denoiser of plain PyTorch, for tests of what is drafted for models of no known kind."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        tokens = (self.to_q(x), self.to_k(context), self.to_v(context))
        made = scaled_dot_product_attention(*(each.unflatten(-1, (2, -1)).transpose(1, 2) for each in tokens))
        return self.out(made.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.to_text = Attention(width), Attention(width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.to_text(self.norm2(x), text)


class PlainDiT(nn.Module):
    """[B, C, F, H, W] in and out."""

    def __init__(self, in_channels: int = 16, width: int = 128, text_dim: int = 96, num_layers: int = 3) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=in_channels, text_dim=text_dim)
        self.inner, self.read = nn.Linear(in_channels, width), nn.Linear(text_dim, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(num_layers)])
        self.outer = nn.Linear(width, in_channels)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        tokens = self.inner(x.flatten(2).transpose(1, 2)) + (t / 1000).to(x.dtype)[:, None, None]
        text = self.read(context)
        for block in self.blocks:
            tokens = block(tokens, text)
        return self.outer(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class Nested(nn.Module):
    """Blocks in stages; no text, and no config to look at."""

    def __init__(self, in_channels: int = 16, width: int = 32) -> None:
        super().__init__()
        self.inner = nn.Linear(in_channels, width)
        self.stages = nn.ModuleList([nn.ModuleList([Attention(width) for _ in range(2)]) for _ in range(2)])

    def forward(self, sample: Tensor) -> Tensor:
        tokens = self.inner(sample.flatten(2).transpose(1, 2))
        for stage in self.stages:
            for attention in stage:
                tokens = tokens + attention(tokens)
        return tokens


class NoAttention(nn.Module):
    def __init__(self, in_channels: int = 16) -> None:
        super().__init__()
        self.inner = nn.Linear(in_channels, in_channels)

    def forward(self, sample: Tensor) -> Tensor:
        return self.inner(sample.movedim(1, -1)).movedim(-1, 1)


class TextAlone(nn.Module):
    """Attends in its text alone."""

    def __init__(self, in_channels: int = 16, text_dim: int = 96) -> None:
        super().__init__()
        self.inner, self.attn = nn.Linear(in_channels, text_dim), Attention(text_dim)

    def forward(self, sample: Tensor, context: Tensor) -> Tensor:
        frames = self.inner(sample.movedim(1, -1))
        return frames + torch.mean(self.attn(context), 1)[:, None, None, None]
