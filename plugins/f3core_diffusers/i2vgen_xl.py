"""I2VGen-XL: ``I2VGenXLUNet``, ModelScope's U-Net that animates an image.

The image is in three places: 64 tokens of its latents and a few of its CLIP embedding are keys of ``attn2`` and count
as text; its latents, followed by one constant a frame, are channels of every frame once an encoder has attended to them
over frames (a site like others, the same at every step). With transformers 5, diffusers 0.42 can run the pipeline only
with ``clip_skip: null`` in the call.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Pattern, Temporal
from f3core_diffusers.unet3d import UNet3DAdapter


class I2VGenXLAdapter(UNet3DAdapter):
    name = "i2vgen-xl"
    text = ("encoder_hidden_states", 5)

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        yield "image_latents_temporal_encoder", {"attn1": Temporal(("norm1",))}
        yield from super().layers(denoiser)

    def generate(
        self, pipeline: Any, prompts: Sequence[str], *, steps: int, seeds: Sequence[int], call: Mapping[str, Any]
    ) -> torch.Tensor:
        with _image_latents_drawn(pipeline.vae, seeds):
            return super().generate(pipeline, prompts, steps=steps, seeds=seeds, call=call)

    def inputs(self, example: Example) -> dict[str, Any]:
        return super().inputs(example) | {
            "fps": example.full(16).long(),
            "image_latents": example.noise(4, example.frames, example.height, example.width),
            "image_embeddings": example.noise(1, example.config.cross_attention_dim),
        }


@contextlib.contextmanager
def _image_latents_drawn(vae: nn.Module, seeds: Sequence[int]) -> Iterator[None]:
    """The pipeline draws the image's latents from torch's own generator; here each row has one of its own, by its seed,
    as a pipeline run for one clip after ``torch.manual_seed(seed)``."""
    plain = vae.encode

    def encode(*args: Any, **kwargs: Any) -> Any:
        encoded = plain(*args, **kwargs)
        drawn = [torch.Generator().manual_seed(seed) for seed in seeds]
        encoded.latent_dist.sample = functools.partial(encoded.latent_dist.sample, drawn)
        return encoded

    vars(vae)["encode"] = encode
    try:
        yield
    finally:
        del vars(vae)["encode"]
