"""AnyFlow: ``AnyFlowTransformer3DModel``, Wan's blocks over latents [B, F, C, H, W], with two timesteps for each frame:
where it is, and where the step is to lead. The level of a forward is that of its noisiest frame.

Latents of a given beginning are frames as any other; image-conditioning tokens count as text.
"""

from __future__ import annotations

from typing import Any

from f3core_diffusers.examples import Example
from f3core_diffusers.wan import WanAdapter


class AnyFlowAdapter(WanAdapter):
    name = "anyflow"
    conditional_first = False
    tells_branches = False
    axes = "FCHW"
    text = ("encoder_hidden_states", 3)

    def inputs(self, example: Example) -> dict[str, Any]:
        timesteps = {"timestep": example.timestep(example.frames)}
        return super().inputs(example) | timesteps | {"r_timestep": example.timestep(example.frames, value=250.0)}
