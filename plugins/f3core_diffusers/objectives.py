"""`Objective`: what denoisers learn under a scheduler of diffusers: levels, noisy latents, targets, and the way back.

A level is the timestep of the denoiser's forward; ``scale`` of them is one of the scheduler's, as some pipelines pass
on another number. At every level a scheduler mixes z = a x + b ε, of clean latents x and standard normal noise ε: a
and b are what its levels mean. Schedulers whose samples grow with the noise instead, and are scaled before the forward
(Euler's), are met as the denoiser sees them: z is scaled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from f3core.errors import ModelError

FLOWS = frozenset(
    {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"},
)
"""schedulers of flow matching whose samples are (1 - s) x + s ε"""
P_MEAN, P_STD = 0.7, 1.6
"""of the normal distribution of log σ by which Stable Video Diffusion (Blattmann et al. 2023) is trained"""


class Objective(ABC):
    """Levels are [B], on any device; whatever is returned is float32 there."""

    @abstractmethod
    def levels(self, uniform: Tensor) -> Tensor:
        """Levels as training draws them, from numbers in [0, 1)."""

    @abstractmethod
    def at_sigma(self, sigmas: Tensor) -> Tensor:
        """The scheduler's own levels whose b / a is nearest."""

    @abstractmethod
    def mix(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """a and b [B] of the levels."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """What has to be predicted."""

    @abstractmethod
    def clean(self, noisy: Tensor, predicted: Tensor, levels: Tensor) -> Tensor:
        """The clean latents that a prediction stands for."""

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """z of the levels."""
        signal, share = self.weights(levels, latents)
        return signal * latents + share * noise

    def weights(self, levels: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, to multiply latents [B, ...] by."""
        shape = (-1, *(1,) * (like.ndim - 1))
        signal, share = (part.to(like.device).view(shape) for part in self.mix(levels))
        return signal, share


def _nearest(table: Tensor, values: Tensor) -> Tensor:
    """The index in a ``table`` [N] of what is nearest to each of ``values`` [B]."""
    return (table.to(values.device)[None] - values[:, None]).abs().argmin(1)


@dataclass(frozen=True)
class Flow(Objective):
    """Flow matching (Lipman et al. 2023; Liu et al. 2023): z = (1 - s) x + s ε, the target is ε - x.

    ``shift`` f moves levels towards noise, s = f u / (1 + (f - 1) u) (Esser et al. 2024); ``steps`` are the scheduler's
    own levels, even before they are shifted.
    """

    shift: float
    steps: int
    scale: float = 1.0

    def _shifted(self, even: Tensor) -> Tensor:
        return self.shift * even / (1 + (self.shift - 1) * even)

    def levels(self, uniform: Tensor) -> Tensor:
        return self._shifted(uniform.float().clamp(min=1 / self.steps)) * self.steps * self.scale

    def at_sigma(self, sigmas: Tensor) -> Tensor:
        own = self._shifted(torch.arange(1, self.steps + 1, dtype=torch.float64) / self.steps).to(sigmas.device)
        return (own[_nearest(own / (1 - own), sigmas.double())] * self.steps * self.scale).float()

    def mix(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        share = levels.float() / (self.steps * self.scale)
        return 1 - share, share

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        return noise - latents

    def clean(self, noisy: Tensor, predicted: Tensor, levels: Tensor) -> Tensor:
        return noisy - self.weights(levels, noisy)[1] * predicted


@dataclass(frozen=True)
class Diffusion(Objective):
    """Diffusion with a² + b² = 1 (Ho et al. 2020; Song et al. 2021), whose levels are the places of ``alphas``, the a²
    of every training step.

    ``predicts``: ``epsilon``, ``v_prediction`` (a ε - b x, Salimans and Ho 2022) or ``sample``.
    """

    alphas: Tensor
    predicts: str
    scale: float = 1.0

    def levels(self, uniform: Tensor) -> Tensor:
        return (uniform.float() * len(self.alphas)).floor().clamp(max=len(self.alphas) - 1) * self.scale

    def at_sigma(self, sigmas: Tensor) -> Tensor:
        own = self.alphas.double()
        return _nearest(((1 - own) / own).sqrt(), sigmas.double()).float() * self.scale

    def mix(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas.to(levels.device).double()[(levels / self.scale).round().long()]
        return alphas.sqrt().float(), (1 - alphas).sqrt().float()

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        if self.predicts == "epsilon":
            return noise
        if self.predicts == "sample":
            return latents
        signal, share = self.weights(levels, latents)
        return signal * noise - share * latents

    def clean(self, noisy: Tensor, predicted: Tensor, levels: Tensor) -> Tensor:
        if self.predicts == "sample":
            return predicted
        signal, share = self.weights(levels, noisy)
        if self.predicts == "epsilon":
            return (noisy - share * predicted) / signal
        return signal * noisy - share * predicted


@dataclass(frozen=True)
class ContinuousDiffusion(Diffusion):
    """Stable Video Diffusion's: levels are log σ / 4 of any σ between ``lowest`` and ``highest`` (Karras et al. 2022,
    whose preconditioning with unit variance is the prediction of v), training draws log σ from a normal distribution.

    The sampler's x + σ ε is divided by √(σ² + 1) before the forward: that is z.
    """

    lowest: float = 0.002
    highest: float = 700.0

    def _level(self, logs: Tensor) -> Tensor:
        return logs.clamp(math.log(self.lowest), math.log(self.highest)) / 4 * self.scale

    def levels(self, uniform: Tensor) -> Tensor:
        return self._level(P_MEAN + P_STD * torch.special.ndtri(uniform.double())).float()

    def at_sigma(self, sigmas: Tensor) -> Tensor:
        return self._level(sigmas.double().log()).float()

    def mix(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        squared = (8 / self.scale * levels.double()).exp()
        return (1 / (1 + squared)).sqrt().float(), (squared / (1 + squared)).sqrt().float()


def objective(scheduler: Any, *, scale: float = 1.0, mu: float | None = None) -> Objective:
    """What a scheduler's denoisers learn. ``mu``: the shift that the pipeline computes for its clips, where the
    scheduler takes one.

    Raises `ModelError` for a scheduler that is not known here.
    """
    name, config = type(scheduler).__name__, scheduler.config
    predicts = config.get("prediction_type", "flow_prediction")
    flows = name in FLOWS or bool(config.get("use_flow_sigmas"))
    if flows and predicts == "flow_prediction" and not config.get("invert_sigmas"):
        return Flow(_shift(scheduler, mu), config.num_train_timesteps, scale)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if flows or alphas is None or predicts not in ("epsilon", "v_prediction", "sample"):
        raise ModelError(
            f"what denoisers learn under {name} ({predicts}) is not known here, so none can be distilled; set the "
            "pipeline's scheduler to one of flow matching or of diffusion by alphas_cumprod, if the model allows"
        )
    if config.get("timestep_type") == "continuous" and predicts == "v_prediction":
        lowest, highest = (config.get(each) or usual for each, usual in (("sigma_min", 0.002), ("sigma_max", 700.0)))
        return ContinuousDiffusion(alphas, predicts, scale, lowest, highest)
    return Diffusion(alphas, predicts, scale)


def _shift(scheduler: Any, mu: float | None) -> float:
    """The factor by which a flow scheduler shifts levels. Both of its ways to shift by ``mu`` are of one form."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", config.get("flow_shift", 1.0)))
    if mu is None:
        raise ModelError(f"{type(scheduler).__name__} shifts levels by the clip's size, which the pipeline did not say")
    return float(mu) if config.get("time_shift_type") == "linear" else math.exp(mu)
