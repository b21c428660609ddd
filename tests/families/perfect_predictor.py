"""A denoiser that knows what it has to find: with it a pipeline's own sampling has to come out at given latents."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from f3core_diffusers.training import DiffusersRecipe
from torch import Tensor, nn

from f3core.adapter import Adapter


@contextmanager
def knowing(adapter: Adapter, pipeline: Any, recipe: DiffusersRecipe, latents: Tensor) -> Iterator[None]:
    """Until the block ends, the pipeline's denoisers predict the recipe's target for ``latents`` [1, ...], of whatever
    noise would make what they are given."""
    channel = 1 + adapter.axes.index("C")  # type: ignore[attr-defined]
    with ExitStack() as stack:
        for denoiser in adapter.denoisers(pipeline).values():
            stack.callback(setattr, denoiser, "forward", denoiser.forward)
            taken = {name: p.default for name, p in inspect.signature(type(denoiser).forward).parameters.items()}
            taken.pop("self")

            def forward(*args: Any, _own: nn.Module = denoiser, _taken: dict[str, Any] = taken, **kwargs: Any) -> Any:
                given = {**_taken, **dict(zip(_taken, args, strict=False)), **kwargs}
                noisy = recipe.leaving(given[next(iter(_taken))]).narrow(channel, 0, latents.shape[channel]).float()
                level = torch.as_tensor(given["timestep"]).float().flatten()[:1].expand(len(noisy))
                clean = latents.expand_as(noisy)
                silent, loud = (recipe.noised(clean, torch.full_like(clean, each), level) for each in (0.0, 1.0))
                made = recipe.target(clean, (noisy - silent) / (loud - silent), level)
                if _own.config.get("out_channels") == 2 * latents.shape[channel]:
                    made = torch.cat([made, made], channel)  # variances
                made = recipe.entering(made)
                return {True: SimpleNamespace(sample=made), False: (made,)}.get(given["return_dict"], made)

            denoiser.forward = forward
        yield


def decoded(pipeline: Any, clips: Tensor) -> Tensor:
    """Clips [1, F, 3, H, W] in [0, 1] through the pipeline's codec and back."""
    vae = pipeline.vae
    with torch.no_grad():
        if any(isinstance(module, nn.Conv3d) for module in vae.encoder.modules()):
            made = vae.decode(vae.encode((2 * clips - 1).transpose(1, 2)).latent_dist.mode()).sample.transpose(1, 2)
        else:
            frames = vae.encode(2 * clips[0] - 1).latent_dist.mode()
            over_time = "num_frames" in inspect.signature(vae.decode).parameters
            made = vae.decode(frames, **({"num_frames": len(frames)} if over_time else {})).sample[None]
    return (made / 2 + 0.5).clamp(0, 1)
