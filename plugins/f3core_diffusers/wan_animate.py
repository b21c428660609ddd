"""Wan Animate: ``WanAnimateTransformer3DModel``, Wan's blocks, and face adapters behind some of them.

The reference picture is frame 0. A face adapter lets every frame ask the motion tokens of its own face: CA. What image
and face encoders compute is counted, never pruned. Its pipeline makes one clip a call, segment by segment, each from
noise; a segment is a generation of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from f3core_diffusers.arguments import opened
from f3core_diffusers.compacting import Left, spaced, standing
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Pattern, Rows
from f3core_diffusers.wan import BLOCK, WanAdapter, latent_size

FACE = Cross(output="to_out", rows=Rows.FRAME)


def _segment_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """Of a segment behind the reference picture."""
    frames, height, width = latent_size(source, denoiser, {**call, "num_frames": call["segment_frame_length"]})
    return frames + 1, height, width


class WanAnimateAdapter(WanAdapter):
    name = "wan-animate"
    latent_size = staticmethod(_segment_size)

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        every, stays = denoiser.config.inject_face_latents_blocks, set(standing(denoiser, "blocks"))
        for number in range(denoiser.config.num_layers):
            if number in stays:
                yield f"blocks.{number}", BLOCK
            if number % every == 0:
                yield "face_adapter", {str(number // every): FACE}

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        """Face adapters stay where they are, behind every n-th block."""
        config, stays = denoiser.config, left["blocks"]
        every = spaced(stays, config.inject_face_latents_blocks, config.num_layers)
        return every and {"num_layers": len(stays), "inject_face_latents_blocks": every}

    def inputs(self, example: Example) -> dict[str, Any]:
        config, frames = example.config, example.frames - 1
        channels = config.latent_channels or (config.in_channels - 4) // 2
        faces = (4 * (frames - 1) + 1, config.motion_encoder_size, config.motion_encoder_size)
        return super().inputs(example) | {
            "pose_hidden_states": example.noise(channels, frames, example.height, example.width),
            "face_pixel_values": example.noise(3, *faces),
        }

    def rows(self, given: Mapping[str, Any], guider: Any, steps: int) -> tuple[int, ...]:
        frames = len(opened({"pose_video": given["pose_video"]})["pose_video"])
        shared = given["prev_segment_conditioning_frames"]
        new = (given["segment_frame_length"] - 1) // 4 * 4 + 1 - shared
        segments = (shared - (shared - frames) // new * new) // new
        return tuple(segments * rows for rows in super().rows(given, guider, steps))
