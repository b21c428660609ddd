"""ChronoEdit: ``ChronoEditTransformer3DModel``, Wan's blocks, from a picture to the picture that it becomes.

Tokens of the picture are keys of ``attn2`` and count as text; its latents are channels of every frame. With temporal
reasoning the first steps see a whole clip, the others its first and last frame alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from f3core.sites import Layout
from f3core_diffusers.wan import WanAdapter, latent_size


@dataclass(frozen=True)
class ClipLayout(Layout):
    """A forward over a whole clip, or over two frames of it."""

    @property
    def kind(self) -> str:
        return f"{self.frames} frames"


def _clip_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    return latent_size(source, denoiser, call if call["enable_temporal_reasoning"] else {**call, "num_frames": 5})


class ChronoEditAdapter(WanAdapter):
    name = "chronoedit"
    several_kinds = True
    tells_branches = False
    latent_size = staticmethod(_clip_size)

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ClipLayout:
        return ClipLayout(**asdict(super().layout(denoiser, args, kwargs)))

    def forwards(
        self, denoiser: nn.Module, given: Mapping[str, Any], inputs: Mapping[str, Any], rows: tuple[int, ...]
    ) -> list[tuple[Mapping[str, Any], tuple[int, ...]]]:
        thinking, none = given["num_temporal_reasoning_steps"], (0,) * len(rows)
        if not given["enable_temporal_reasoning"] or thinking >= len(rows):
            return [(inputs, rows)]
        (*_, height, width), text = inputs["hidden_states"].shape, inputs["encoder_hidden_states"].shape[1]
        pair = self.example_inputs(denoiser, frames=2, height=height, width=width, text=text)
        return [(inputs, rows[:thinking] + none[thinking:]), (pair, none[:thinking] + rows[thinking:])]
