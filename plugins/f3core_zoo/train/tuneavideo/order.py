"""A helper task for the clip stage: say, from the U-Net's features, which frame of the clip this is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from f3core_tuneavideo.blocks import ClipTransformerBlock
from torch import Tensor, nn

from .diffusion import Denoiser, Loss
from .vae import FRAMES


class FrameOrder(nn.Module):
    """One linear reader behind every transformer block; used in training only.

    The architecture has no frame positions: order reaches a frame only along sparse-causal attention's chain, from
    frame 0 and from the frame before. Denoising alone teaches the model to put the right positions into the clip long
    before it teaches it which frame gets which; being asked for the frame's number makes it count.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        blocks = [module for module in unet.modules() if isinstance(module, ClipTransformerBlock)]
        self.readers = nn.ModuleList(nn.Linear(block.norm1.normalized_shape[0], FRAMES) for block in blocks)
        self._seen: list[Tensor] = []
        self._hooks = [
            block.register_forward_hook(lambda _block, _args, out: self._seen.append(out.mean(1))) for block in blocks
        ]

    def remove(self) -> None:
        """Stop watching the U-Net."""
        for hook in self._hooks:
            hook.remove()

    def forward(self) -> Tensor:
        """Cross-entropies [blocks] of the frame number, for the U-Net's last forward."""
        seen, self._seen = self._seen, []
        return torch.stack([self._entropy(reader(x)) for reader, x in zip(self.readers, seen, strict=True)])

    @staticmethod
    def _entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, torch.arange(FRAMES).repeat(len(logits) // FRAMES))


class OrderedDenoiser(nn.Module):
    """What the clip stage trains: the denoiser that is shipped, and the readers that are not."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.order = FrameOrder(denoiser.unet)


class OrderedLoss(Loss):
    """The v-prediction loss, and `weight` times the mean error of the readers."""

    def __init__(self, model: OrderedDenoiser, weight: float, *data: Tensor, batch: int, power: float) -> None:
        super().__init__(model.denoiser, *data, batch=batch, power=power)
        self.order, self.weight = model.order, weight

    def __call__(self, generator: torch.Generator) -> Tensor:
        return super().__call__(generator) + self.weight * self.order().mean()
