"""`DiffusersRecipe`: how denoisers of diffusers pipelines are trained, given what the pipeline itself gives them.

Latents are laid out as the denoiser's first argument. What else it is given is seen in a generation that is begun for
the prompt: nothing here knows how a pipeline encodes its text.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from f3core.distillation.recipe import Conditions, Recipe
from f3core.errors import ModelError
from f3core_diffusers.arguments import PICTURES, VIDEOS, usual_arguments
from f3core_diffusers.codecs import Codec
from f3core_diffusers.objectives import objective
from f3core_diffusers.shown import first_forward, parameters

if TYPE_CHECKING:
    from f3core_diffusers.base import DiffusersAdapter

BESIDE = "channels behind the latents"
"""Among conditions, and no argument's name: channels of the denoiser's first argument that are no latents, such as
those of a given first frame. `DiffusersRecipe.predict` puts them back."""
REMEMBERED = 256
"""prompts whose conditions are kept, those that were asked for last"""

Row = tuple[list[Any], TreeSpec]
"""conditions of one row, as leaves"""


class DiffusersRecipe(Recipe):
    """Begins a generation to see what the denoiser is given. Raises `ModelError` where the pipeline, its codec or its
    scheduler is not understood."""

    def __init__(self, adapter: DiffusersAdapter, pipeline: Any, call: Mapping[str, Any]) -> None:
        self.adapter, self.pipeline, self.call = adapter, pipeline, dict(call)
        self.axes = adapter.axes
        taken = inspect.signature(type(pipeline).__call__).parameters
        self.takes_prompts = bool(adapter.prompted(pipeline, [""]))
        self.takes_clips = "image" in taken and (taken["image"].default is inspect.Parameter.empty or "image" in call)
        needed = [name for name in VIDEOS if name in taken and taken[name].default is inspect.Parameter.empty]
        guides = needed + [name for name in (*PICTURES, *VIDEOS) if name != "image" and call.get(name) is not None]
        if guides or adapter.several_kinds:
            why = f"is guided by its {guides[0]}" if guides else "runs its denoiser in several ways"
            raise ModelError(
                f"{type(pipeline).__name__} {why}; distilled are pipelines that need a prompt or a first frame alone"
            )
        self._empty = {**self.call, "negative_prompt": ""} if "negative_prompt" in taken else self.call
        self._codec = Codec(pipeline)
        shown = first_forward(adapter, pipeline, "a", self._with_image(self.call, self._blank()))
        self.video = parameters(next(iter(adapter.denoisers(pipeline).values())))[0]
        self._sizes = self.sizes(shown.arguments)
        self._check(shown.arguments["timestep"])
        whole, told = shown.arguments[self.video], torch.as_tensor(shown.arguments["timestep"])
        self._timesteps = told.shape[1:]  # of denoisers that are told one for every token or frame
        self.size = self._codec.size((self._sizes["F"], self._sizes["H"], self._sizes["W"]))
        self._check_frames()
        self._objective = objective(pipeline.scheduler, scale=shown.scale, mu=shown.mu)
        self._dtype = whole.dtype
        # What rows an adapter takes tells which tensors have rows.
        none = adapter.take_rows(self._given(shown.arguments), shown.layout, range(0))
        self._by_row = [isinstance(leaf, Tensor) and leaf.shape[:1] == (0,) for leaf in tree_flatten(none)[0]]
        self._rows: OrderedDict[str, Row] = OrderedDict()

    def sizes(self, arguments: Mapping[str, Any]) -> dict[str, int]:
        """Of latents, by axis, as a forward's arguments tell. Raises `ModelError` where they do not."""
        shape = arguments[self.video].shape[1:]
        if len(shape) != len(self.axes):
            raise ModelError(
                f"{type(self.pipeline).__name__} gives its denoiser latents {list(shape)}, not channels, frames, rows "
                "and columns, so how they are packed would have to be known to distil it"
            )
        return dict(zip(self.axes, shape, strict=True))

    def entering(self, latents: Tensor) -> Tensor:
        """Latents as the forward takes them, to be overridden where that packs them."""
        return latents

    def leaving(self, predicted: Tensor) -> Tensor:
        """What the forward gives, laid out as latents."""
        return predicted

    def _check(self, timestep: Any) -> None:
        """Raises `ModelError` where parts of a clip are at levels of their own."""
        told = torch.as_tensor(timestep)
        if (told != told.max()).any():
            raise ModelError(
                f"{type(self.pipeline).__name__} denoises parts of a clip at timesteps {told.min():g} to "
                f"{told.max():g}; distilled are pipelines with one timestep for all of it"
            )

    def _check_frames(self) -> None:
        """Raises `ModelError` where a generation makes more frames than its denoiser sees."""
        given = {**usual_arguments(type(self.pipeline)), **self.call}
        asked, seen = given.get("num_frames") or given.get("video_length"), self.size[0]
        if asked is not None and abs(asked - seen) > self._codec.by_frame:
            raise ModelError(
                f"{type(self.pipeline).__name__} makes {asked} frames {seen} at a time, going on from those before; "
                "distilled are pipelines that make a clip at once"
            )

    # --- clips and latents --------------------------------------------------------------------------------------

    def latents(self, clips: Tensor) -> Tensor:
        frames, height, width = self.size
        if clips.shape[1:] != (frames, 3, height, width):
            raise ModelError(f"clips {list(clips.shape)} are not [B, {frames}, 3, {height}, {width}], as generated")
        made = self._codec.encode(clips)
        found = dict(zip("CFHW", made.shape[1:], strict=True))
        if any(found[axis] != self._sizes[axis] for axis in "FHW"):
            raise ModelError(
                f"{type(self._codec.vae).__name__} makes latents {found} of clips {list(clips.shape)}, while "
                f"{type(self.pipeline).__name__} denoises {self._sizes}"
            )
        return made.permute(0, *("BCFHW".index(axis) for axis in self.axes)).contiguous()

    def frames(self, latents: Tensor) -> int:
        return latents.shape[1 + self.axes.index("F")]

    # --- what the denoiser is given -----------------------------------------------------------------------------

    def conditions(self, prompts: Sequence[str], clips: Tensor | None = None) -> Conditions:
        if self.takes_clips and clips is None:
            raise ModelError(f"{type(self.pipeline).__name__} animates an image, so conditions need the clips")
        firsts = [_picture(clip[0]) for clip in clips] if self.takes_clips and clips is not None else None
        rows = [self._row(prompt, None if firsts is None else firsts[i]) for i, prompt in enumerate(prompts)]
        leaves = zip(*(row for row, _ in rows), strict=True)
        joined = [self._joined(parts, by_row) for parts, by_row in zip(leaves, self._by_row, strict=True)]
        made: dict[str, Any] = tree_unflatten(joined, rows[0][1])
        return made

    def _row(self, prompt: str, image: Image.Image | None) -> Row:
        if prompt in self._rows:
            self._rows.move_to_end(prompt)
            return self._rows[prompt]
        # An empty prompt asks for the unconditional branch, where there is one; negative prompts are left aside.
        call = self._with_image(self.call if prompt else self._empty, image)
        shown = first_forward(self.adapter, self.pipeline, prompt, call, conditional=bool(prompt))
        row = tree_flatten(self._given(shown.arguments))
        if image is None:  # with one, prompts come back with other images
            self._rows[prompt] = row
            if len(self._rows) > REMEMBERED:
                self._rows.popitem(last=False)
        return row

    def _joined(self, parts: Sequence[Any], by_row: bool) -> Any:
        if not by_row:
            return parts[0]
        try:
            return torch.cat(tuple(parts))
        except RuntimeError as error:
            raise ModelError(
                f"{type(self.pipeline).__name__} gives its denoiser {[list(part.shape) for part in parts]} for several "
                "prompts, which cannot share a forward; train on batches of one clip a process"
            ) from error

    def _given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What a forward is given beside latents and timestep."""
        given = {name: each for name, each in arguments.items() if name not in (self.video, "timestep", "return_dict")}
        axis, channels = 1 + self.axes.index("C"), self._codec.channels
        further = self._sizes["C"] - channels
        return {**given, BESIDE: arguments[self.video].narrow(axis, channels, further)} if further else given

    def _with_image(self, call: Mapping[str, Any], image: Image.Image | None) -> Mapping[str, Any]:
        return {**call, "image": image} if self.takes_clips else call

    def _blank(self) -> Image.Image:
        """An image for a generation that is begun before there are clips."""
        given = {**usual_arguments(type(self.pipeline)), **self.call}
        return Image.new("RGB", (given.get("width") or 64, given.get("height") or 64))

    # --- training -----------------------------------------------------------------------------------------------

    def levels(self, uniform: Tensor) -> Tensor:
        return self._objective.levels(uniform)

    def at_sigma(self, sigmas: Tensor) -> Tensor:
        return self._objective.at_sigma(sigmas)

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """As the denoiser takes them: where its pipeline scales latents before the forward, they are scaled here."""
        return self._objective.noised(latents, noise, levels)

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        return self._objective.target(latents, noise, levels)

    def clean(self, noisy: Tensor, predicted: Tensor, levels: Tensor) -> Tensor:
        return self._objective.clean(noisy, predicted, levels)

    def predict(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        """In float32. Latents go in as the denoiser's own type; so do conditions that are of the pipeline's."""
        dtype = next(tensor.dtype for tensor in denoiser.parameters() if tensor.is_floating_point())

        def placed(tensor: Tensor) -> Tensor:
            return tensor.to(noisy.device, dtype if tensor.dtype == self._dtype else None)

        given = dict(tree_map_only(Tensor, placed, conditions))
        axis, beside = 1 + self.axes.index("C"), given.pop(BESIDE, None)
        latents = noisy.to(dtype) if beside is None else torch.cat([noisy.to(dtype), beside.to(dtype)], axis)
        timestep = levels.float().view(-1, *(1,) * len(self._timesteps)).expand(-1, *self._timesteps)
        made = denoiser(**{**given, self.video: self.entering(latents), "timestep": timestep, "return_dict": False})
        predicted = self.leaving(made[0] if isinstance(made, tuple) else made)
        # Channels behind those of the latents are variances, which some denoisers tell too.
        return predicted.narrow(axis, 0, noisy.shape[axis]).float()


def _picture(frame: Tensor) -> Image.Image:
    """A frame [3, H, W] in [0, 1]."""
    return Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).cpu().numpy())
