"""`Recipe`: how denoisers of a pipeline are trained: what they see, what they have to predict, and what that means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Conditions = Mapping[str, Any]
"""Keyword arguments of a denoiser's forward beside latents and timestep, of some rows."""


class Recipe(ABC):
    """Made by an adapter for one of its pipelines (`Adapter.recipe`). B rows are B clips.

    A *level* is a timestep value as the denoiser's forward takes it, high is noisy. ``sigma`` of a level is the
    standard deviation of the noise over that of the scaled signal, x_σ ∝ x_0 + σ ε (Karras et al. 2022), whatever the
    scheduler's own terms: s / (1 − s) for flow matching x_s = (1 − s) x_0 + s ε, √((1 − ᾱ) / ᾱ) for diffusion.
    """

    size: tuple[int, int, int]
    """frames, height and width of the clips that a generation with the pipeline's call makes"""
    takes_prompts: bool = True
    """whether prompts are seen; where not, an empty one still asks for the unconditional branch, any other for the
    conditional one"""
    takes_clips: bool = False
    """whether `conditions` needs the clips, because the pipeline animates an image"""

    @abstractmethod
    def latents(self, clips: Tensor) -> Tensor:
        """Latents [B, ...] as the denoiser takes them, of clips [B, F, 3, H, W] in [0, 1] of the recipe's ``size``;
        the inverse of what the pipeline decodes. Without gradient."""

    @abstractmethod
    def conditions(self, prompts: Sequence[str], clips: Tensor | None = None) -> Conditions:
        """What the denoiser is given beside latents and timestep, a row a prompt, as the conditional branch of the
        pipeline's guidance gives it; the empty prompt is that of the unconditional branch. ``clips``: of which
        pipelines that animate an image take the first frame."""

    @abstractmethod
    def levels(self, uniform: Tensor) -> Tensor:
        """[B] levels as training draws them, from ``uniform`` [B] in [0, 1)."""

    @abstractmethod
    def at_sigma(self, sigmas: Tensor) -> Tensor:
        """[B] levels, those of the scheduler's own whose sigma is nearest to each of ``sigmas`` [B]."""

    @abstractmethod
    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Latents [B, ...] with ``noise`` of a standard normal at ``levels`` [B]; differentiable in the latents."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """What the denoiser has to predict there: noise, velocity or flow, as its scheduler says."""

    @abstractmethod
    def clean(self, noisy: Tensor, predicted: Tensor, levels: Tensor) -> Tensor:
        """The clean latents that a prediction at ``levels`` [B] stands for; differentiable in the prediction."""

    @abstractmethod
    def predict(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        """One forward of a denoiser (or of what wraps one): its prediction [B, ...], as latents lie."""

    @abstractmethod
    def frames(self, latents: Tensor) -> int:
        """Latent frames of latents [B, ...]."""
