"""What a generation's costs are made of, from a pipeline's configs: denoisers on meta, their inputs, the timesteps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import nn
from transformers import AutoConfig

from f3core.adapter import Sketch
from f3core.errors import ModelError
from f3core_diffusers.arguments import check_call, usual_arguments
from f3core_diffusers.named_calls import names_calls

if TYPE_CHECKING:
    from f3core_diffusers.base import DiffusersAdapter

LatentSize = Callable[[str, nn.Module, Mapping[str, Any]], tuple[int, int, int]]
"""From a source, a denoiser of it and its call's arguments to latent frames, rows and columns; ValueError for a size
that the pipeline does not make."""


def sketch(
    adapter: DiffusersAdapter,
    source: str,
    latent_size: LatentSize,
    *,
    steps: int,
    call: Mapping[str, Any],
    pipeline_class: Any = None,
    scheduler_class: Any = None,
    text: int | None = None,
    usual: Mapping[str, Any] = MappingProxyType({}),
) -> Sketch:
    """Arguments that ``call`` leaves out are the pipeline's own defaults, or ``usual`` ones where it decides them in
    its code. The classes are those that the source names, unless the adapter loads it with others. ``text``: tokens of
    a prompt, as many as the adapter says when left out.

    Raises `ModelError` when the configs cannot be had, and for a call that the pipeline would refuse.
    """
    try:
        index = DiffusionPipeline.load_config(source)
        scheduler_class = scheduler_class or _class_of(*index["scheduler"])
        scheduler = scheduler_class.from_config(scheduler_class.load_config(source, subfolder="scheduler"))
        guider = _guider(source, index)
        denoisers = adapter.skeletons(source)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{source}: its configs could not be read: {error}") from error
    adapter = adapter.as_run_by(index)
    pipeline_class = pipeline_class or _pipeline_class(index)
    check_call(pipeline_class, call)
    given = {**usual_arguments(pipeline_class), **usual, **call}
    try:
        frames, height, width = latent_size(source, next(iter(denoisers.values())), given)
    except KeyError as error:
        raise ModelError(
            f"{pipeline_class.__name__} takes no {error}, from which the size of its clips would be known without "
            "weights; score the model and give --scores"
        ) from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{pipeline_class.__name__} would refuse to generate: {error}; see model.call") from error
    text = text or adapter.text_of(next(iter(denoisers.values())), given)
    levels = adapter.levels(scheduler, steps, given, (frames, height, width))
    rows = adapter.rows(given, guider, len(levels))
    boundary = 1000.0 * float(index.get("boundary_ratio") or 0.0)  # of models with one denoiser for either side of it
    inputs: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in denoisers}
    runs: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in denoisers}
    for place, (name, denoiser) in enumerate(denoisers.items()):
        runs_at = [len(denoisers) == 1 or (level >= boundary) == (place == 0) for level in levels]
        with torch.device("meta"):
            example = adapter.example_inputs(denoiser, frames=frames, height=height, width=width, text=text)
            forwards = adapter.forwards(denoiser, given, example, rows)
        for arguments, numbers in forwards:
            kind = adapter.layout_of(denoiser, arguments).kind
            inputs[name][kind] = arguments
            before = runs[name].get(kind, (0,) * len(levels))
            runs[name][kind] = tuple(m + n * now for m, n, now in zip(before, numbers, runs_at, strict=True))
    apart = {
        name: {kind: tuple(n // 2 for n in every) for kind, every in by_kind.items()} for name, by_kind in runs.items()
    }
    told = adapter.tells_branches and names_calls(pipeline_class)
    return Sketch(denoisers, inputs, levels, runs, apart if told else {})


def _guider(source: str, index: Mapping[str, Any]) -> Any:
    """The component that decides on guidance, where the pipeline has one."""
    if not (index.get("guider") or (None,))[0]:
        return None
    guider_class = _class_of(*index["guider"])
    return guider_class.from_config(guider_class.load_config(source, subfolder="guider"))


def _class_of(library: str, name: str) -> Any:
    return getattr(diffusers if library == "diffusers" else importlib.import_module(library), name)


def _pipeline_class(index: Mapping[str, Any]) -> Any:
    named = index["_class_name"]
    return _class_of(*named) if isinstance(named, list | tuple) else getattr(diffusers, named)


def codec_size(
    source: str, denoiser: nn.Module, call: Mapping[str, Any], *, pixels: int = 1, rounds: bool = False
) -> tuple[int, int, int]:
    """Latent size by what the source's ``vae`` says of itself; a codec that compresses time keeps the first frame.

    Sizes that the call leaves to the denoiser are its config's ``sample_frames`` or ``num_frames``, ``sample_height``,
    ``sample_width``, or ``sample_size`` for both. ``pixels``: what the pipeline wants height and width to be multiples
    of; ``rounds``: it makes one frame more than a multiple of the codec's compression of any number of frames.
    """
    library, class_name = DiffusionPipeline.load_config(source)["vae"]
    codec_class = _class_of(library, class_name)
    with torch.device("meta"):
        codec = codec_class.from_config(codec_class.load_config(source, subfolder="vae"))
    by_frame, by_pixel = (_factor(codec, axis) for axis in ("temporal", "spatial"))
    if by_pixel is None:
        by_pixel = 2 ** (len(codec.config.block_out_channels) - 1)
    frames = call["num_frames"] or denoiser.config.get("sample_frames") or denoiser.config.num_frames
    if rounds and by_frame and frames % by_frame != 1:
        frames = max(frames // by_frame * by_frame + 1, 1)
    for name in ("height", "width"):
        divided(call[name] or pixels, pixels, name)
    height, width = (
        divided(call[name], by_pixel, name) if call[name] else _own_size(denoiser.config, name)
        for name in ("height", "width")
    )
    return (frames - 1) // (by_frame or 1) + 1, height, width


def _own_size(config: Mapping[str, Any], axis: str) -> int:
    """Latent rows (``height``) or columns (``width``) of a denoiser's config."""
    if f"sample_{axis}" in config:
        return int(config[f"sample_{axis}"])
    size = config["sample_size"]
    return int(size[axis == "width"] if isinstance(size, list | tuple) else size)


def _factor(codec: Any, axis: str) -> int | None:
    """How far a codec compresses time or space; its classes call that differently."""
    for place, name in ((codec, f"{axis}_compression_ratio"), (codec.config, f"scale_factor_{axis}")):
        found = getattr(place, name, None)
        if found is not None:
            return int(found)
    return None


def picture_tokens(source: str, component: str) -> int:
    """Tokens of a picture that the vision tower of a source's ``component`` makes. Raises `ModelError` when its config
    cannot be had."""
    try:
        config = AutoConfig.from_pretrained(source, subfolder=component)
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: the config of its {component} could not be read: {error}") from error
    seen = getattr(config, "vision_config", config)
    return int(seen.image_size // seen.patch_size) ** 2


def divided(size: int, by: int, name: str) -> int:
    """A size in pixels over ``by``. Raises ValueError when that leaves a rest, or nothing."""
    if size % by or size <= 0:
        raise ValueError(f"{name} must be a multiple of {by}, not {size}")
    return size // by
