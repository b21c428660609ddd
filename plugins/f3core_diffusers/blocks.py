"""`BlocksAdapter`: adapters of denoisers made of blocks, each attention module of which follows one `Pattern`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from f3core.adapter import Sketch
from f3core.block import Block, Part
from f3core.clock import Gate
from f3core.segments import argument
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.compacting import Left, compact_stacks_, standing
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Pattern, PatternSite
from f3core_diffusers.sketch import LatentSize, codec_size, sketch


class BlocksAdapter(DiffusersAdapter):
    """An adapter says which pattern each attention module follows, and how latents and text reach the forward.

    ``stacks``: by path of a list of blocks, in the order in which they run, the patterns of a block's attention
    modules, by name, in that order too. ``video``: name of the forward's first argument, latents whose ``axes`` behind
    the rows are channels, frames, rows and columns in some order. ``text``: name and position of its text embeddings
    [..., T, C], whose C is the config's ``text_channels``, and T usually ``usual_text``, a number or the config's entry
    of that name. ``usual_call``: pipeline arguments whose defaults the pipeline decides in its code.

    ``depths``: by path of a list of blocks, the config's entry for its length, where a model with fewer of them is one
    of the same class; `smaller` says what else its config then says. ``hands``: by path of a list, the arguments that a
    block gives back, where they are several.
    """

    stacks: ClassVar[Mapping[str, Mapping[str, Pattern]]]
    depths: ClassVar[Mapping[str, str]] = {}
    hands: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    video: ClassVar[str] = "hidden_states"
    axes: ClassVar[str] = "CFHW"
    text: ClassVar[tuple[str, int]] = ("encoder_hidden_states", 1)
    text_channels: ClassVar[str] = "text_embed_dim"
    usual_text: ClassVar[int | str] = 512
    usual_call: ClassVar[Mapping[str, Any]] = {}
    latent_size: ClassVar[LatentSize] = staticmethod(codec_size)

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        """Path and patterns of every block that is not skipped for good, in the order in which they run; a block is a
        layer."""
        for stack, patterns in self.stacks.items():
            for number in standing(denoiser, stack):
                yield f"{stack}.{number}", patterns

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return [
            pattern.site(component, block, name, index)
            for index, (block, patterns) in enumerate(self.layers(denoiser))
            for name, pattern in patterns.items()
        ]

    def blocks(self, denoiser: nn.Module, component: str) -> list[Block]:
        """Those of all lists; none while the adapter names no ``depths``."""
        found: list[Block] = []
        for path, _ in self.layers(denoiser) if self.depths else ():
            stack, _, number = path.rpartition(".")
            if stack:
                part, fixed = Part(path, self.hands.get(stack, ())), self.fixed(denoiser, path)
                found.append(Block(component, path, len(found), (part,), number=int(number), fixed=fixed))
        return found

    def fixed(self, denoiser: nn.Module, path: str) -> str | None:
        """`Block.fixed` of the block at a path."""
        return None

    def compact_(self, denoiser: nn.Module, gone: Sequence[Block]) -> bool:
        return compact_stacks_(denoiser, gone, tuple(self.depths), functools.partial(self.smaller, denoiser))

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        """The config's entries that change with the numbers of blocks ``left`` in each list that ``depths`` names, so
        that a model of these blocks alone computes what this one does without the others. None where the config cannot
        say that, as where something comes behind every n-th block of a list."""
        return {entry: len(left[stack]) for stack, entry in self.depths.items()}

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

    def grid(self, example: Example) -> tuple[int, int, int]:
        """Tokens along frames, rows and columns of an example."""
        by_frame, by_row, by_column = self.patch(example.denoiser)
        return example.frames // by_frame, example.height // by_row, example.width // by_column

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        """Rows, latent frames, latent rows and columns of a forward."""
        batch, *rest = argument(args, kwargs, self.video, 0).shape
        size = dict(zip(self.axes, rest, strict=True))
        return batch, size["F"], size["H"], size["W"]

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        batch, frames, height, width = self.latents(args, kwargs)
        by_frame, by_row, by_column = self.patch(denoiser)
        text = argument(args, kwargs, *self.text)
        rows = height // by_row
        tokens = rows * (width // by_column)
        return Layout(batch, frames // by_frame, tokens, 0 if text is None else text.shape[-2], rows=rows)

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        return sketch(self, source, self.latent_size, steps=steps, call=call, usual=self.usual_call)

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        usual = self.usual_text if isinstance(self.usual_text, int) else denoiser.config[self.usual_text]
        return self.inputs(Example(denoiser, batch, frames, height, width, text or usual))

    def inputs(self, example: Example) -> dict[str, Any]:
        """Keyword arguments of a forward: latents, timestep and text, to which an adapter adds what else it takes."""
        config = example.config
        size = {"C": config.in_channels, "F": example.frames, "H": example.height, "W": example.width}
        return {
            self.video: example.noise(*(size[axis] for axis in self.axes)),
            "timestep": example.timestep(),
            self.text[0]: example.noise(example.text, config[self.text_channels]),
            "return_dict": False,
        }


def _pattern(site: AttentionSite) -> Pattern:
    assert isinstance(site, PatternSite)
    assert site.pattern is not None
    return site.pattern
