"""ModelScope and ZeroScope: ``UNet3DConditionModel``. Both attentions of a temporal block are over frames.

A video to start from (``VideoToVideoSDPipeline``) is other first latents, no tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from f3core_diffusers.patterns import Pattern
from f3core_diffusers.unets import IN_FRAMES, OVER_FRAMES, UNetAdapter, transformer_patterns


class UNet3DAdapter(UNetAdapter):
    name = "unet3d"
    transformers = {  # noqa: RUF012
        "attentions": {"transformer_blocks": IN_FRAMES},
        "temp_attentions": {"transformer_blocks": OVER_FRAMES},
    }

    def one_by_one(self, pipeline: Any) -> bool:
        """With a list of generators, a video to start from is taken for as many frames."""
        return "video" in inspect.signature(type(pipeline).__call__).parameters

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        first = "transformer_in"
        yield first, transformer_patterns(denoiser.get_submodule(first), self.transformers["temp_attentions"])
        yield from super().layers(denoiser)
