"""SkyReels-V2: ``SkyReelsV2Transformer3DModel``, Wan's blocks, with one timestep a clip or (diffusion forcing) a frame.

The level of a forward is that of its noisiest frame. A causal mask over blocks of frames stays what it is in what is
left. Image-conditioning tokens of the I2V models count as text; given first frames and the overlap with the window
before (diffusion forcing) are frames as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import DiffusionPipeline
from torch import nn

from f3core.adapter import Sketch
from f3core.errors import ModelError
from f3core_diffusers.wan import WanAdapter


class SkyReelsV2Adapter(WanAdapter):
    name = "skyreels-v2"
    forced: ClassVar[bool] = False
    """whether example inputs have a timestep for every frame, whatever the config says"""

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        inputs = super().example_inputs(denoiser, frames=frames, height=height, width=width, batch=batch, text=text)
        config = denoiser.config
        if self.forced or config.inject_sample_info or config.num_frame_per_block > 1:
            each = inputs["timestep"][:, None].repeat(1, frames)
            inputs |= {"timestep": each, "enable_diffusion_forcing": True, "fps": [1] * batch}
        return inputs

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        if call.get("ar_step") or call.get("overlap_history"):
            raise ModelError(
                f"{source}: with ar_step or overlap_history the forwards of a generation are many more than its steps, "
                "which configs do not tell; score the model and give --scores"
            )
        if not self.forced and "DiffusionForcing" in str(_pipeline(source)):
            return DiffusionForcingAdapter().sketch(source, steps=steps, call=call)
        return super().sketch(source, steps=steps, call=call)


class DiffusionForcingAdapter(SkyReelsV2Adapter):
    """The same model where a diffusion forcing pipeline runs it."""

    forced = True


def _pipeline(source: str) -> Any:
    """What a source says its pipeline's class is."""
    try:
        return DiffusionPipeline.load_config(source)["_class_name"]
    except OSError as error:
        raise ModelError(f"{source}: its configs could not be read: {error}") from error
