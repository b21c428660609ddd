"""What the inflated U-Net is built of: ResNet blocks whose norms see a whole clip, and the four-part transformer.

Frames lie in the batch, [B·F, C, H, W], a clip's frames together; 2-D layers of diffusers apply as they are. Tensors
keep the channels-last memory format, in which both the clip norm and the way to tokens are views.
Source: Tune-A-Video, arXiv 2212.11565; the parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from f3core_tuneavideo.attention import SparseCausalAttention, TemporalAttention, TextAttention


def clip_norm(norm: nn.GroupNorm, hidden: Tensor, frames: int) -> Tensor:
    """A group norm with statistics over all frames of a clip together, [B·F, C, H, W] to the same."""
    rows, channels, height, width = hidden.shape
    clips = hidden.permute(0, 2, 3, 1).reshape(rows // frames, frames * height, width, channels)
    out = norm(clips.permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1).reshape(rows, height, width, channels).permute(0, 3, 1, 2)


class ClipResnetBlock(ResnetBlock2D):
    """diffusers' ResNet block per frame, but for its two norms, which normalise over the clip."""

    def forward(self, hidden: Tensor, time: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """[B·F, C, H, W] and the time embedding [B, T] to [B·F, C', H, W]."""
        out = self.conv1(self.nonlinearity(clip_norm(self.norm1, hidden, frames)))
        shift = self.time_emb_proj(self.nonlinearity(time)).repeat_interleave(frames, 0)
        out = clip_norm(self.norm2, out + shift[:, :, None, None], frames)
        out = self.conv2(self.dropout(self.nonlinearity(out)))
        if self.conv_shortcut is not None:
            hidden = self.conv_shortcut(hidden)
        return (hidden + out) / self.output_scale_factor


class ClipTransformerBlock(nn.Module):
    """attn1 (SC-Attn), attn2 (text), feed-forward, attn_temp (over frames): each behind its norm, each residual."""

    def __init__(self, width: int, heads: int, text_width: int, *, upcast: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SparseCausalAttention(width, heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = TextAttention(width, heads, text_width, upcast=upcast)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")
        self.norm_temp = nn.LayerNorm(width)
        self.attn_temp = TemporalAttention(width, heads, upcast=upcast)
        nn.init.zeros_(self.attn_temp.to_out[0].weight)

    def forward(self, hidden: Tensor, text: Tensor, frames: int) -> Tensor:
        """[B·F, S, C] tokens and text [B·F, L, C'] to [B·F, S, C]."""
        hidden = hidden + self.attn1(self.norm1(hidden), frames)
        hidden = hidden + self.attn2(self.norm2(hidden), text)
        hidden = hidden + self.ff(self.norm3(hidden))
        return hidden + self.attn_temp(self.norm_temp(hidden), frames)


class ClipTransformer(nn.Module):
    """A transformer on feature maps, residual. Its group norm, unlike the ResNets', is each frame's own.

    ``linear``: project by linear layers on tokens (Stable Diffusion 2) and not by 1 × 1 convolutions (1.x).
    ``upcast``: attention in float32 whatever the dtype (Stable Diffusion 2.1).
    """

    def __init__(
        self, width: int, heads: int, text_width: int, *, groups: int, depth: int, linear: bool, upcast: bool = False
    ) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            ClipTransformerBlock(width, heads, text_width, upcast=upcast) for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, hidden: Tensor, text: Tensor, frames: int) -> Tensor:
        """[B·F, C, H, W] and text [B·F, L, C'] to [B·F, C, H, W]."""
        size = hidden.shape[2:]
        out = self.norm(hidden)
        if not self.linear:
            out = self.proj_in(out)
        tokens = out.permute(0, 2, 3, 1).flatten(1, 2)
        if self.linear:
            tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, text, frames)
        if self.linear:
            tokens = self.proj_out(tokens)
        out = tokens.unflatten(1, size).permute(0, 3, 1, 2)
        return hidden + (out if self.linear else self.proj_out(out))
