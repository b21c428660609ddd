"""`BlocksAdapter`: adapters of denoisers made of blocks, each attention module of which follows one `Pattern`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from f3core.adapter import Sketch
from f3core.clock import Gate
from f3core.segments import argument
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.patterns import Pattern, PatternSite
from f3core_diffusers.sketch import LatentSize, codec_size, sketch


class BlocksAdapter(DiffusersAdapter):
    """An adapter says which pattern each attention module follows, and how latents and text reach the forward.

    ``stacks``: by path of a list of blocks, in the order in which they run, the patterns of a block's attention
    modules, by name, in that order too. ``text``: name and position of the forward's text embeddings [..., T, C].
    ``usual_call``: pipeline arguments whose defaults the pipeline decides in its code.
    """

    stacks: ClassVar[Mapping[str, Mapping[str, Pattern]]]
    text: ClassVar[tuple[str, int]] = ("encoder_hidden_states", 1)
    usual_call: ClassVar[Mapping[str, Any]] = {}
    latent_size: ClassVar[LatentSize] = staticmethod(codec_size)

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        """Path and patterns of every block, in the order in which they run; a block is a layer."""
        for stack, patterns in self.stacks.items():
            for number in range(len(denoiser.get_submodule(stack))):  # type: ignore[arg-type]
                yield f"{stack}.{number}", patterns

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return [
            pattern.site(component, block, name, index)
            for index, (block, patterns) in enumerate(self.layers(denoiser))
            for name, pattern in patterns.items()
        ]

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        return _pattern(site).segments(layout, call)

    def restrict(
        self, module: nn.Module, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate
    ) -> nn.Module:
        return _pattern(site).restrict(module, target, gate)

    def patch(self, denoiser: nn.Module) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        size = denoiser.config.patch_size
        by_frame = getattr(denoiser.config, "patch_size_t", None) or 1
        return tuple(size) if isinstance(size, Sequence) else (by_frame, size, size)  # type: ignore[return-value]

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        """Rows, latent frames, latent rows and columns of a forward; from [B, C, F, H, W] unless overridden."""
        batch, _, frames, height, width = argument(args, kwargs, "hidden_states", 0).shape
        return batch, frames, height, width

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        batch, frames, height, width = self.latents(args, kwargs)
        by_frame, by_row, by_column = self.patch(denoiser)
        text = argument(args, kwargs, *self.text)
        tokens = (height // by_row) * (width // by_column)
        return Layout(batch, frames // by_frame, tokens, 0 if text is None else text.shape[-2])

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        return sketch(self, source, self.latent_size, steps=steps, call=call, usual=self.usual_call)


def like(denoiser: nn.Module) -> dict[str, Any]:
    """Device and dtype of a denoiser, for tensors of its inputs."""
    return {"device": denoiser.device, "dtype": denoiser.dtype}


def timestep(denoiser: nn.Module, batch: int) -> torch.Tensor:
    """A timestep [B] in the middle of a generation."""
    return torch.full((batch,), 500.0, device=denoiser.device)  # type: ignore[arg-type]


def padding_mask(denoiser: nn.Module, batch: int, text: int) -> torch.Tensor:
    """A mask [B, T] of text tokens, 0 at padding: the last third of every second row."""
    mask = torch.ones(batch, text, dtype=torch.long, device=denoiser.device)  # type: ignore[arg-type]
    mask[1::2, text - text // 3 :] = 0
    return mask


def _pattern(site: AttentionSite) -> Pattern:
    assert isinstance(site, PatternSite)
    assert site.pattern is not None
    return site.pattern
