"""Video U-Nets: transformers inside frames and over frames, in the blocks of a 2-D U-Net.

A U-Net runs its down blocks, its mid block and its up blocks; each block runs transformer i of one list after
transformer i of another, resnets between them. Latents are [B, C, F, H, W]. Tokens of a layout are those of a frame at
latent resolution; deeper blocks have fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from f3core.block import Block
from f3core.skipping import Skip
from f3core_diffusers.arguments import opened
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.patterns import Cross, Pattern, Rows, Spatial, Temporal
from f3core_diffusers.sketch import codec_size
from f3core_diffusers.skips import compact_unet_
from f3core_diffusers.unet_blocks import unet_blocks

Transformer = Mapping[str, Mapping[str, Pattern]]
"""Of a transformer: by the name of each of its lists of blocks, the patterns of such a block's attention modules. Block
i of one list runs before block i of the next."""

IN_FRAMES = {"attn1": Spatial(("norm1",)), "attn2": Cross(("norm2",), rows=Rows.FRAME)}
"""of a block that works frame by frame: `attn1` inside it, `attn2` to the conditioning"""
OVER_FRAMES = {"attn1": Temporal(("norm1",)), "attn2": Temporal(("norm2",))}
"""of a block in which both attend over frames, position by position"""


def unet_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """As codecs say; a given ``video`` decides what the call does not."""
    if call.get("video") is not None:
        video = opened({"video": call["video"]})["video"]
        width, height = video[0].size
        call = {"height": height, "width": width, **call, "num_frames": len(video)}
    return codec_size(source, denoiser, call)


class UNetAdapter(BlocksAdapter):
    """``transformers``: by the name of each of a block's lists of transformers, in the order in which they run, what is
    in them. Transformers of one number are one layer."""

    components = ("unet",)
    video = "sample"
    text = ("encoder_hidden_states", 2)
    text_channels = "cross_attention_dim"
    usual_text = 77
    latent_size = staticmethod(unet_size)
    transformers: ClassVar[Mapping[str, Transformer]]

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        yield from unet_layers(denoiser, self.transformers)

    def blocks(self, denoiser: nn.Module, component: str) -> list[Block]:
        return unet_blocks(denoiser, component)

    def compact_(self, denoiser: nn.Module, gone: Sequence[Block]) -> bool:
        return compact_unet_(denoiser)

    def patch(self, denoiser: nn.Module) -> tuple[int, int, int]:
        return 1, 1, 1

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        """Of a generation that starts from a video, noised with ``strength``, the last ones alone."""
        found = super().levels(scheduler, steps, call, size)
        return found[len(found) - min(int(steps * call.get("strength", 1)), steps) :]


def unet_layers(
    denoiser: nn.Module, transformers: Mapping[str, Transformer]
) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
    """Path of a block, and patterns of the attention modules of one layer in it by their names there, in the order in
    which they run. A block without such a list, or without its i-th transformer, is passed over."""
    down, up = (
        [f"{name}.{number}" for number in range(len(denoiser.get_submodule(name)))]  # type: ignore[arg-type]
        for name in ("down_blocks", "up_blocks")
    )
    for path in (*down, "mid_block", *up):
        block = denoiser.get_submodule(path) if getattr(denoiser, path.split(".")[0]) is not None else nn.Module()
        lists = {name: getattr(block, name, None) or () for name in transformers}
        for number in range(max(map(len, lists.values()))):
            found = {
                f"{name}.{number}.{inner}": pattern.inside(f"{name}.{number}")
                for name, modules in lists.items()
                if number < len(modules)
                for inner, pattern in transformer_patterns(modules[number], transformers[name]).items()
            }
            if found:
                yield path, found


def transformer_patterns(transformer: nn.Module, blocks: Transformer) -> dict[str, Pattern]:
    """The patterns of a transformer's attention modules, by their names in it. A block without one is passed over, and
    so is a transformer that is skipped."""
    if isinstance(transformer, Skip):
        return {}
    lists = {name: getattr(transformer, name) for name in blocks}
    return {
        f"{name}.{number}.{attention}": pattern.inside(f"{name}.{number}")
        for number in range(max(map(len, lists.values())))
        for name, modules in lists.items()
        if number < len(modules)
        for attention, pattern in blocks[name].items()
        if getattr(modules[number], attention, None) is not None
    }
