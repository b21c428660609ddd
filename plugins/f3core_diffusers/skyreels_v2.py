"""SkyReels-V2: ``SkyReelsV2Transformer3DModel``, Wan's blocks, with one timestep a clip or (diffusion forcing) a frame.

The level of a forward is that of its noisiest frame. A causal mask over blocks of frames stays what it is in what is
left. Image-conditioning tokens of the I2V models count as text; given first frames, and the overlap with the window
before, are frames as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from f3core.adapter import Sketch
from f3core.errors import ModelError
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.wan import WanAdapter


class SkyReelsV2Adapter(WanAdapter):
    name = "skyreels-v2"

    def inputs(self, example: Example) -> dict[str, Any]:
        forced = example.config.inject_sample_info or example.config.num_frame_per_block > 1
        return super().inputs(example) | (_forced(example) if forced else {})

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

    def inputs(self, example: Example) -> dict[str, Any]:
        return super().inputs(example) | _forced(example)


def _forced(example: Example) -> dict[str, Any]:
    """A timestep for every frame."""
    each = example.timestep(example.frames)
    return {"timestep": each, "enable_diffusion_forcing": True, "fps": [1] * example.batch}
