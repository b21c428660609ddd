"""`psnr`, `ssim`, `lpips`: how far clips lie from another clip each, such as the unpruned model's of the same noise.

Each is taken frame by frame, by torchmetrics, and averaged over the frames of a clip, then over clips. Values span 1.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from f3core.errors import ModelError
from f3core.metric import Batch, Metric, Reference

from .networks import check_clips, device, load_script

FRAMES = 64
"""frames that are compared at once"""


class _Drift(Metric):
    """Compares frames with frames; a class says only how."""

    reference: ClassVar[Reference] = Reference.CLIP

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        """One figure, of the metric's name. Raises `ModelError` without clips, or for clips that do not pair."""
        if reference is None:
            raise ModelError(f"{self.name} compares clips with {Reference.CLIP.value}; give a reference")
        per_clip: list[Tensor] = []
        for one, other in zip_longest(clips, reference):
            shapes = [list(side.clips.shape) if side is not None else None for side in (one, other)]
            if shapes[0] != shapes[1]:
                raise ModelError(f"{self.name}: every clip needs its reference: {shapes[0]} against {shapes[1]}")
            check_clips(one.clips, self.name)
            if not one.clips.numel():
                continue
            frames = zip(*(side.clips.float().flatten(0, 1).split(FRAMES) for side in (one, other)), strict=True)
            with torch.inference_mode():
                values = torch.cat([self._compared(*some) for some in frames])
            per_clip.append(values.double().view(one.clips.shape[:2]).mean(1))
        if not per_clip:
            raise ModelError(f"{self.name} was given no clip")
        return {self.name: torch.cat(per_clip).mean().item()}

    @abstractmethod
    def _compared(self, frames: Tensor, reference: Tensor) -> Tensor:
        """One value a frame [N], of frames [N, 3, H, W] in [0, 1]."""


class PSNR(_Drift):
    """Peak signal-to-noise ratio in decibels. A frame equal to its reference counts as `CAP`, not as infinity: one such
    frame would make every mean infinite."""

    name = "psnr"
    CAP = 100.0

    def _compared(self, frames: Tensor, reference: Tensor) -> Tensor:
        ratio = _torchmetrics().peak_signal_noise_ratio
        found: Tensor = ratio(frames, reference, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return found.clamp(max=self.CAP)


class SSIM(_Drift):
    """Structural similarity (Wang et al. 2004): a Gaussian window of 11 pixels, σ = 1.5, K1 = 0.01 and K2 = 0.03."""

    name = "ssim"
    WINDOW = 11

    def _compared(self, frames: Tensor, reference: Tensor) -> Tensor:
        if min(frames.shape[2:]) < self.WINDOW:
            size = " × ".join(map(str, frames.shape[2:]))
            raise ModelError(f"ssim looks through a window of {self.WINDOW} pixels; frames of {size} are too small")
        similarity = _torchmetrics().structural_similarity_index_measure
        found: Tensor = similarity(frames, reference, kernel_size=self.WINDOW, reduction="none", data_range=1.0)
        return found.reshape(-1)


class LPIPS(_Drift):
    """Learned perceptual distance (Zhang et al., arXiv 1801.03924); 0 is best.

    Through torchmetrics, whose backbones are torchvision's, or through a TorchScript file of one's own.
    """

    name = "lpips"
    higher_is_better = False

    def __init__(self, backbone: Literal["alex", "vgg", "squeeze"] = "alex", network: str | None = None) -> None:
        """``backbone``: torchvision's, with torchmetrics' weights on top. ``network``: a TorchScript file used instead;
        it takes two batches of frames [N, 3, H, W] in [-1, 1] and gives a distance for each.

        Raises `ModelError` for another backbone.
        """
        if backbone not in ("alex", "vgg", "squeeze"):
            raise ModelError(f"lpips: backbone must be alex, vgg or squeeze, not {backbone!r}")
        self.backbone = backbone
        self.network = network
        self._loaded: Any = None

    def _compared(self, frames: Tensor, reference: Tensor) -> Tensor:
        if self._loaded is None:
            self._loaded = self._load()
        try:
            found: Tensor = self._loaded(2 * frames.to(device()) - 1, 2 * reference.to(device()) - 1)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ModelError(f"lpips failed on frames {list(frames.shape)}: {lines[-1]}") from error
        if found.numel() != len(frames):
            raise ModelError(f"lpips: {self.network} must give a distance for each of {len(frames)} frames")
        return found.reshape(-1).float().cpu()

    def _load(self) -> Any:
        if self.network is not None:
            return load_script(self.network, "metric 'lpips'")
        _torchmetrics()
        if importlib.util.find_spec("torchvision") is None:
            raise ModelError(
                "metric 'lpips' looks through a network of torchvision, which is not installed; install torchvision, "
                "or give option `network`: a TorchScript file that takes two batches of frames in [-1, 1] and gives a "
                "distance for each"
            )
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        try:  # of the function it would load the network again for every batch
            return LearnedPerceptualImagePatchSimilarity(net_type=self.backbone).net.to(device())
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"metric 'lpips': weights of torchvision's {self.backbone} cannot be had: {error}"
            ) from error


def _torchmetrics() -> Any:
    """torchmetrics' functions on pictures. Raises `ModelError` without torchmetrics."""
    try:
        import torchmetrics.functional.image as functional
    except ImportError as error:
        raise ModelError("psnr, ssim and lpips need torchmetrics: pip install 'f3core[metrics]'") from error
    return functional
