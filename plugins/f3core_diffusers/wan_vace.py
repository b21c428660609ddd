"""Wan VACE: ``WanVACETransformer3DModel``, Wan's blocks, and ``vace_blocks`` before them over tokens of the control.

Tokens of the control lie where those of the clip do, so both stacks have the same segments. Latents of reference images
are frames before the clip's own. Its pipeline makes one clip a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from f3core_diffusers.compacting import Left
from f3core_diffusers.examples import Example
from f3core_diffusers.wan import BLOCK, WanAdapter, latent_size


def _clip_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """With a frame for each reference image."""
    frames, height, width = latent_size(source, denoiser, call)
    given = call["reference_images"] or ()
    return frames + (1 if isinstance(given, str) else len(given)), height, width


class WanVACEAdapter(WanAdapter):
    name = "wan-vace"
    latent_size = staticmethod(_clip_size)
    stacks = {"vace_blocks": BLOCK, "blocks": BLOCK}  # noqa: RUF012

    def fixed(self, denoiser: nn.Module, path: str) -> str | None:
        return "what it makes of the control is added behind another block" if path.startswith("vace_blocks.") else None

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        """What blocks of the control make is added where it was, once a place, behind the first block too."""
        stays = left["blocks"]
        behind = [sum(number <= at for number in stays) - 1 for at in sorted(denoiser.config.vace_layers)]
        if behind[0] != 0 or len(set(behind)) < len(behind):
            return None
        return {"num_layers": len(stays), "vace_layers": behind}

    def inputs(self, example: Example) -> dict[str, Any]:
        shape = (example.config.vace_in_channels, example.frames, example.height, example.width)
        return super().inputs(example) | {"control_hidden_states": example.noise(*shape)}

    def one_by_one(self, pipeline: Any) -> bool:
        return True
