"""`PackedRecipe`: how denoisers are trained whose pipelines pack latents into tokens before the forward (LTX-Video)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from f3core_diffusers.training import DiffusersRecipe


class PackedRecipe(DiffusersRecipe):
    """Latents of training are [B, C, F, H, W]; the pipeline's own functions pack them, its forward is told F, H, W."""

    def sizes(self, arguments: Mapping[str, Any]) -> dict[str, int]:
        patch = self._patch()
        rows, columns = (arguments[name] for name in ("height", "width"))
        channels = arguments[self.video].shape[-1] // (patch["patch_size"] ** 2 * patch["patch_size_t"])
        return {"C": channels, "F": arguments["num_frames"], "H": rows, "W": columns}

    def entering(self, latents: Tensor) -> Tensor:
        packed: Tensor = self.pipeline._pack_latents(latents, **self._patch())
        return packed

    def leaving(self, predicted: Tensor) -> Tensor:
        size = (self._sizes[axis] for axis in "FHW")
        unpacked: Tensor = self.pipeline._unpack_latents(predicted, *size, **self._patch())
        return unpacked

    def _patch(self) -> dict[str, int]:
        """Latent rows and columns, and frames, of a token."""
        return {
            "patch_size": self.pipeline.transformer_spatial_patch_size,
            "patch_size_t": self.pipeline.transformer_temporal_patch_size,
        }
