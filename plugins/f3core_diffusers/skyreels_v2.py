"""SkyReels-V2: ``SkyReelsV2Transformer3DModel``, Wan's blocks, with one timestep a clip or (diffusion forcing) a frame.

The level of a forward is that of its noisiest frame. A causal mask over blocks of frames stays what it is in what is
left. Image-conditioning tokens of the I2V models count as text; given first frames, and the overlap with the window
before, are frames as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from f3core.adapter import Sketch
from f3core.errors import ModelError
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.wan import WanAdapter


class SkyReelsV2Adapter(WanAdapter):
    name = "skyreels-v2"

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        inputs = super().example_inputs(denoiser, frames=frames, height=height, width=width, batch=batch, text=text)
        config = denoiser.config
        forced = config.inject_sample_info or config.num_frame_per_block > 1
        return _forced(inputs, batch, frames) if forced else inputs

    def as_run_by(self, index: Mapping[str, Any]) -> DiffusersAdapter:
        return DiffusionForcingAdapter() if "DiffusionForcing" in str(index["_class_name"]) else self

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        if call.get("ar_step") or call.get("overlap_history"):
            raise ModelError(
                f"{source}: with ar_step or overlap_history the forwards of a generation are many more than its steps, "
                "which configs do not tell; score the model and give --scores"
            )
        return super().sketch(source, steps=steps, call=call)


class DiffusionForcingAdapter(SkyReelsV2Adapter):
    """Where a diffusion forcing pipeline runs the model, whatever its config says."""

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        inputs = WanAdapter.example_inputs(
            self, denoiser, frames=frames, height=height, width=width, batch=batch, text=text
        )
        return _forced(inputs, batch, frames)


def _forced(inputs: dict[str, Any], batch: int, frames: int) -> dict[str, Any]:
    """Inputs with a timestep for every frame."""
    each = inputs["timestep"][:, None].repeat(1, frames)
    return {**inputs, "timestep": each, "enable_diffusion_forcing": True, "fps": [1] * batch}
