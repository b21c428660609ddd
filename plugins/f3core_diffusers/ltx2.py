"""LTX-2 to 2.5, the video stream: ``LTX2VideoTransformer3DModel``, full 3-D self-attention and text cross-attention.

Audio is a stream of its own. Its self- and text attention, and attention between it and the video, relate no frames to
frames: they are no sites, stay as they are, and count in the total of MACs alone. Given frames (I2V) replace latents of
theirs; condition and reference tokens beside the frames are refused, as LTX-Video's are.

Beside the guided forward a step may run a perturbed one (in some blocks self-attention leaves values as they are) and
one whose streams do not hear each other. They cost less and are kinds of their own, which are weighed alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from f3core.segments import argument
from f3core.sites import FORWARD, AttentionSite, Layout
from f3core_diffusers.arguments import usual_arguments
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.compacting import Left
from f3core_diffusers.examples import Example
from f3core_diffusers.ltx import by_token, packed_size
from f3core_diffusers.patterns import Cross, Full3D, Pattern
from f3core_diffusers.shifted import shifted_levels

FRAME_RATE = 24.0
"""frames a second, where a generation says no other"""


@dataclass(frozen=True)
class LTX2Layout(Layout):
    """Of a forward that is ``perturbed`` in some blocks, or in which streams are ``isolated``, or neither."""

    perturbed: tuple[int, ...] = ()
    isolated: bool = False

    @property
    def kind(self) -> str:
        """ "forward", "perturbed" or "isolated"."""
        return "perturbed" if self.perturbed else "isolated" if self.isolated else FORWARD


class LTX2Adapter(BlocksAdapter):
    name = "ltx2"
    several_kinds = True
    timestep_at = 4
    stacks = {  # noqa: RUF012
        "transformer_blocks": {"attn1": Full3D(companions=("norm1",)), "attn2": Cross(companions=("norm2",))}
    }
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    hands = {"transformer_blocks": ("hidden_states", "audio_hidden_states")}  # noqa: RUF012
    text = ("encoder_hidden_states", 2)
    usual_text = 1024
    usual_call = {"num_frames": 121}  # noqa: RUF012

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        """Heads that are gated (2.3 on) are not mapped by W_o as attention left them."""
        for block, patterns in super().layers(denoiser):
            gated = {name: replace(pattern, output=None) for name, pattern in patterns.items()}
            yield block, gated if denoiser.config.gated_attn else patterns

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        """Calls of models whose blocks can be perturbed name these by number, and must go on meaning the same."""
        return None if denoiser.config.perturbed_attn else super().smaller(denoiser, left)

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        return argument(args, kwargs, "hidden_states", 0).shape[0], *packed_size(args, kwargs, 10)

    def patch(self, denoiser: nn.Module) -> tuple[int, int, int]:
        return 1, 1, 1  # latents are packed before the forward, which is told numbers of tokens

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> LTX2Layout:
        found = super().layout(denoiser, args, kwargs)
        isolated, blocks = (
            kwargs.get(name, args[place] if len(args) > place else None)
            for name, place in (("isolate_modalities", 17), ("spatio_temporal_guidance_blocks", 18))
        )
        perturbed = tuple(blocks or ()) if denoiser.config.perturbed_attn else ()
        return LTX2Layout(**vars(found), perturbed=perturbed, isolated=bool(isolated))

    def attends(self, site: AttentionSite, layout: Layout) -> bool:
        assert isinstance(layout, LTX2Layout)
        _, number, name = site.path.split(".")
        return not (name == "attn1" and int(number) in layout.perturbed)

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        return shifted_levels(scheduler, steps, size)

    def guidance_of(self, given: Mapping[str, Any]) -> float:
        """Guidance of either stream guides both."""
        return max(float(given.get(name) or 1.0) for name in ("guidance_scale", "audio_guidance_scale"))

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        """What the guided forward's rows weigh in the video; its conditional ones lead away from the further ones."""
        given = {**usual_arguments(type(pipeline)), **call}
        if self.guidance_of(given) <= 1:
            return (1.0,)
        scale, further = float(given["guidance_scale"]), given["stg_scale"] + given["modality_scale"] - 1
        return 1 - scale, scale + float(further)

    def forwards(
        self, denoiser: nn.Module, given: Mapping[str, Any], inputs: Mapping[str, Any], rows: tuple[int, ...]
    ) -> list[tuple[Mapping[str, Any], tuple[int, ...]]]:
        once, heard = (1,) * len(rows), _heard(denoiser, given["num_frames"] / given["frame_rate"])
        audio = inputs["audio_hidden_states"][:, :1].repeat(1, heard, 1)
        inputs = by_token(given, {**inputs, "audio_hidden_states": audio, "audio_num_frames": heard})
        inputs |= {"audio_timestep": inputs["sigma"], "use_cross_timestep": given["use_cross_timestep"]}
        found = [(inputs, rows)]
        if max(given["stg_scale"], given["audio_stg_scale"] or 0.0) > 0:
            blocks = given["spatio_temporal_guidance_blocks"]
            found.append(({**inputs, "spatio_temporal_guidance_blocks": blocks}, once))
        if max(given["modality_scale"], given["audio_modality_scale"] or 1.0) > 1:
            found.append(({**inputs, "isolate_modalities": True}, once))
        return found

    def inputs(self, example: Example) -> dict[str, Any]:
        config, size = example.config, (example.frames, example.height, example.width)
        heard = _heard(example.denoiser, ((example.frames - 1) * config.vae_scale_factors[0] + 1) / FRAME_RATE)
        projected = config.use_prompt_embeddings
        channels = config.caption_channels if projected else config.cross_attention_dim
        audio_channels = config.caption_channels if projected else config.audio_cross_attention_dim
        noise = example.timestep()
        return {
            "hidden_states": example.noise(math.prod(size), config.in_channels),
            "audio_hidden_states": example.noise(heard, config.audio_in_channels),
            "encoder_hidden_states": example.noise(example.text, channels),
            "audio_encoder_hidden_states": example.noise(example.text, audio_channels),
            "timestep": noise,
            "sigma": noise,
            "encoder_attention_mask": example.padding_mask(),
            "audio_encoder_attention_mask": example.padding_mask(),
            **dict(zip(("num_frames", "height", "width"), size, strict=True)),
            "audio_num_frames": heard,
            "return_dict": False,
        }


def _heard(denoiser: nn.Module, seconds: float) -> int:
    """Audio tokens of a clip so long."""
    config = denoiser.config
    return round(seconds * config.audio_sampling_rate / config.audio_hop_length / config.audio_scale_factor)
