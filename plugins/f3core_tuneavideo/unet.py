"""`TuneAVideoUNet`: the Stable Diffusion U-Net inflated to clips.

Parameter and config names are those of the published checkpoints (Tune-A-Video at 7d4a89a, diffusers 0.11).
Source: arXiv 2212.11565.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, Upsample2D
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from f3core_diffusers.named_calls import NamedCalls
from torch import Tensor, nn

from f3core_tuneavideo.blocks import ClipResnetBlock, ClipTransformer, clip_norm


class _Stage(nn.Module):
    """ResNet blocks, each with a transformer behind it when ``attentions`` is not None, then a change of size."""

    resnets: nn.ModuleList
    attentions: nn.ModuleList | None

    def __init__(self, resnets: Sequence[nn.Module], attentions: Sequence[nn.Module] | None) -> None:
        super().__init__()
        self.attentions = None if attentions is None else nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)

    def pair(self, i: int, hidden: Tensor, time: Tensor, text: Tensor, frames: int) -> Tensor:
        """The i-th ResNet block and its transformer, if it has one."""
        hidden = self.resnets[i](hidden, time, frames)
        return hidden if self.attentions is None else self.attentions[i](hidden, text, frames)


class _Down(_Stage):
    downsamplers: nn.ModuleList | None

    def forward(self, hidden: Tensor, time: Tensor, text: Tensor, frames: int) -> list[Tensor]:
        """Every intermediate result, for the skip connections; the last is the stage's output."""
        kept = []
        for i in range(len(self.resnets)):
            hidden = self.pair(i, hidden, time, text, frames)
            kept.append(hidden)
        for down in self.downsamplers or ():
            hidden = down(hidden)
            kept.append(hidden)
        return kept


class _Mid(_Stage):
    def forward(self, hidden: Tensor, time: Tensor, text: Tensor, frames: int) -> Tensor:
        """A ResNet block, then transformers and ResNet blocks in turn."""
        hidden = self.resnets[0](hidden, time, frames)
        for attention, resnet in zip(self.attentions or (), self.resnets[1:], strict=True):
            hidden = resnet(attention(hidden, text, frames), time, frames)
        return hidden


class _Up(_Stage):
    upsamplers: nn.ModuleList | None

    def forward(self, hidden: Tensor, skips: list[Tensor], time: Tensor, text: Tensor, frames: int) -> Tensor:
        """Takes one of ``skips`` off its end for each ResNet block; grows to the size of the next one left."""
        for i in range(len(self.resnets)):
            hidden = self.pair(i, torch.cat([hidden, skips.pop()], dim=1), time, text, frames)
        for up in self.upsamplers or ():
            hidden = up(hidden, tuple(skips[-1].shape[2:]))
        return hidden


_FIXED = {
    "center_input_sample": False,
    "only_cross_attention": False,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "dual_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
}
"""published options of which the checkpoints use one value, and this class knows that one only"""


class TuneAVideoUNet(NamedCalls, ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predicts the noise in a clip of latents. The defaults are the sizes of Stable Diffusion 1.4, 909.12 M parameters.

    ``attention_head_dim`` is the number of heads, of all stages or stage by stage, as in Stable Diffusion's configs.
    ``layers_per_block``: pairs of a ResNet block and a transformer in each down block, one more in the up block of its
    size; of all stages or stage by stage. ``mid_block_type`` None: no mid block. (Both as diffusers' 2-D U-Net has
    them, for smaller ones.) Raises ValueError for published options that no checkpoint uses.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = 64,
        in_channels: int = 4,
        out_channels: int = 4,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: Sequence[str] = (*("CrossAttnDownBlock3D",) * 3, "DownBlock3D"),
        mid_block_type: str | None = "UNetMidBlock3DCrossAttn",
        up_block_types: Sequence[str] = ("UpBlock3D", *("CrossAttnUpBlock3D",) * 3),
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int | Sequence[int] = 2,
        transformer_layers_per_block: int = 1,
        downsample_padding: int = 1,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 768,
        attention_head_dim: int | Sequence[int] = 8,
        use_linear_projection: bool = False,
        upcast_attention: bool = False,
        center_input_sample: bool = False,
        only_cross_attention: bool = False,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        dual_cross_attention: bool = False,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        resnet_time_scale_shift: str = "default",
    ) -> None:
        super().__init__()
        for option, known in _FIXED.items():
            if self.config[option] != known:
                raise ValueError(f"TuneAVideoUNet: {option}={self.config[option]!r} is not supported, only {known!r}")
        widths = list(block_out_channels)
        per_stage = isinstance(attention_head_dim, list | tuple)
        heads = list(attention_head_dim) if per_stage else [attention_head_dim] * len(widths)  # type: ignore[arg-type]
        each = isinstance(layers_per_block, list | tuple)
        layers = list(layers_per_block) if each else [layers_per_block] * len(widths)  # type: ignore[arg-type]
        time_width = 4 * widths[0]

        def resnet(before: int, after: int) -> ClipResnetBlock:
            return ClipResnetBlock(
                in_channels=before,
                out_channels=after,
                temb_channels=time_width,
                groups=norm_num_groups,
                eps=norm_eps,
            )

        def transformer(width: int, number: int) -> ClipTransformer:
            return ClipTransformer(
                width,
                number,
                cross_attention_dim,
                groups=norm_num_groups,
                depth=transformer_layers_per_block,
                linear=use_linear_projection,
                upcast=upcast_attention,
            )

        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(widths[0], time_width)

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for i, (kind, width) in enumerate(zip(down_block_types, widths, strict=True)):
            before = [skips[-1], *[width] * layers[i]][: layers[i]]
            down = _Down(
                [resnet(b, width) for b in before],
                [transformer(width, heads[i]) for _ in before] if _attends(kind, "Down") else None,
            )
            skips += [width] * layers[i]
            down.downsamplers = None
            if i < len(widths) - 1:
                down.downsamplers = nn.ModuleList(
                    [Downsample2D(width, use_conv=True, padding=downsample_padding, name="op")]
                )
                skips.append(width)
            self.down_blocks.append(down)

        self.mid_block: _Mid | None = None
        if mid_block_type is not None:
            middle = [resnet(widths[-1], widths[-1]) for _ in range(2)]
            self.mid_block = _Mid(middle, [transformer(widths[-1], heads[-1])])

        self.up_blocks = nn.ModuleList()
        last = widths[-1]
        for i, (kind, width) in enumerate(zip(up_block_types, reversed(widths), strict=True)):
            before = [last, *[width] * layers[-1 - i]]
            up = _Up(
                [resnet(b + skips.pop(), width) for b in before],
                [transformer(width, heads[-1 - i]) for _ in before] if _attends(kind, "Up") else None,
            )
            up.upsamplers = None
            if i < len(widths) - 1:
                up.upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True)])
            self.up_blocks.append(up)
            last = width

        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0], eps=norm_eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Latents [B, C, F, H, W], timesteps (one, or [B]) and text [B, L, D] to the prediction [B, C', F, H, W].

        Returns the tensor itself. diffusers' pipelines ask otherwise: for a tuple by ``return_dict=False``, for an
        object with ``sample`` by True. They also pass ``cross_attention_kwargs``, which must be empty.
        """
        if cross_attention_kwargs:
            raise ValueError(f"cross_attention_kwargs are not supported: {', '.join(cross_attention_kwargs)}")
        batch, _, frames = sample.shape[:3]
        times = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(batch)
        time = self.time_embedding(self.time_proj(times).to(sample.dtype))
        text = encoder_hidden_states.repeat_interleave(frames, 0)

        hidden = sample.transpose(1, 2).flatten(0, 1)
        hidden = self.conv_in(hidden.contiguous(memory_format=torch.channels_last))
        skips = [hidden]
        for down in self.down_blocks:
            skips += down(hidden, time, text, frames)
            hidden = skips[-1]
        if self.mid_block is not None:
            hidden = self.mid_block(hidden, time, text, frames)
        for up in self.up_blocks:
            hidden = up(hidden, skips, time, text, frames)
        hidden = self.conv_out(self.conv_act(clip_norm(self.conv_norm_out, hidden, frames)))
        out = hidden.unflatten(0, (batch, frames)).transpose(1, 2)
        if return_dict is None:
            return out
        return UNet3DConditionOutput(sample=out) if return_dict else (out,)


TuneAVideoUNet.__module__ = __package__  # saved pipelines name it so


def _attends(kind: str, way: str) -> bool:
    """Whether a stage of this published name has transformers. Raises ValueError for an unknown name."""
    names = {f"CrossAttn{way}Block3D": True, f"{way}Block3D": False}
    if kind not in names:
        raise ValueError(f"TuneAVideoUNet: unknown block type {kind!r}, known are {', '.join(names)}")
    return names[kind]
