"""Latte: ``LatteTransformer3DModel``, blocks inside frames (SA, CA) and over frames (SA and TA) by turns; a pair is a
layer.

It makes clips of one length alone, its config's. ``norm2`` lies before the feed-forward net, so that no norm dies with
the cross-attention. A prompt generated alone loses its padding (``mask_feature``); plans from configs count with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from f3core.block import Block, Part
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.compacting import Left, standing
from f3core_diffusers.patterns import Cross, Pattern, Rows, Spatial, Temporal
from f3core_diffusers.sketch import codec_size


def _latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    if call.get("enable_temporal_attentions") is False:
        raise ValueError("without enable_temporal_attentions no frame attends to another, and there is no TA to prune")
    frames, known = call["video_length"], denoiser.config.video_length
    if frames not in (1, known):
        raise ValueError(f"video_length must be {known}, the number of frames that the model has positions for")
    return codec_size(source, denoiser, {**call, "num_frames": frames})


class LatteAdapter(BlocksAdapter):
    name = "latte"
    text = ("encoder_hidden_states", 2)
    text_channels = "caption_channels"
    usual_text = 120
    latent_size = staticmethod(_latent_size)
    stacks = {  # noqa: RUF012
        "transformer_blocks": {"attn1": Spatial(("norm1",)), "attn2": Cross(rows=Rows.FRAME)},
        "temporal_transformer_blocks": {"attn1": Temporal(("norm1",))},
    }

    depths = dict.fromkeys(stacks, "num_layers")

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        for number in standing(denoiser, "transformer_blocks"):
            yield (
                "",
                {
                    f"{stack}.{number}.{name}": pattern.inside(f"{stack}.{number}")
                    for stack, patterns in self.stacks.items()
                    for name, pattern in patterns.items()
                },
            )

    def blocks(self, denoiser: nn.Module, component: str) -> list[Block]:
        """Pairs, named by the first block of each."""
        found = []
        for index, number in enumerate(standing(denoiser, "transformer_blocks")):
            pair = tuple(Part(f"{stack}.{number}") for stack in self.stacks)
            found.append(Block(component, pair[0].path, index, pair, number=number))
        return found

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        """Inside the first pair frames are told their positions, which a later pair would not be told as early."""
        first = left["transformer_blocks"][:1] == [0]
        return super().smaller(denoiser, left) if first else None
