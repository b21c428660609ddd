"""What a spec's ``model.call`` may say to a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers.utils import load_image, load_video
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from f3core.errors import ModelError, suggest

OURS = frozenset({"prompt", "num_videos_per_prompt", "num_inference_steps", "generator", "output_type"})
"""arguments of a pipeline that the spec's own keys decide"""
PICTURES = ("image", "last_image", "reference_images")
"""arguments of pipelines that are pictures, the same for all clips"""
VIDEOS = ("video", "mask", "pose_video", "face_video", "background_video", "mask_video")
"""arguments of pipelines that are videos, the same for all clips"""


def check_call(pipeline_class: Any, call: Mapping[str, Any]) -> None:
    """Raises `ModelError` for arguments that are the spec's to decide, or that the pipeline does not have."""
    taken = sorted(OURS & call.keys())
    if taken:
        raise ModelError(f"model.call must not set {', '.join(taken)}: the spec's own keys decide that")
    parameters = inspect.signature(pipeline_class.__call__).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in call:
        if name not in parameters:
            known = suggest(name, parameters.keys() - OURS - {"self"})
            raise ModelError(f"{pipeline_class.__name__} has no argument {name!r} (model.call); {known}")


def usual_arguments(pipeline_class: Any) -> dict[str, Any]:
    """What a pipeline's arguments are where a call leaves them out."""
    parameters = inspect.signature(pipeline_class.__call__).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def _frames(path: str) -> list[Image.Image]:
    """The frames of a video, all of one mode; those of a GIF differ."""
    return [frame.convert("RGB") for frame in load_video(path)]


def _tensors(path: str) -> Tensor | list[Tensor]:
    """The tensor that a file holds, or a list of them, in the order of their names."""
    held = load_file(path)
    listed = [held[name] for name in sorted(held)]
    return listed[0] if len(listed) == 1 else listed


def _reader(name: str, path: str) -> tuple[str, Callable[[str], Any]] | None:
    """What an argument is a path of, and what opens it."""
    if path.endswith(".safetensors"):
        return "file of tensors", _tensors
    if name in PICTURES:
        return "picture", load_image
    if name in VIDEOS:
        return "video", _frames
    return None


def opened(call: Mapping[str, Any], clips: int | None = None) -> dict[str, Any]:
    """A call whose files are opened: pipelines that start from pictures, videos or tensors are given paths in a spec.

    A picture becomes a list of ``clips`` of it (None: it alone), several stay a list, a video becomes the list of its
    frames, a safetensors file
    its tensor, or the list of its tensors. A ``negative_prompt`` becomes a list like a picture: not every pipeline
    repeats it. Raises `ModelError` when there is no such file.
    """
    arguments = dict(call)
    if clips is not None and isinstance(negative := call.get("negative_prompt"), str):
        arguments["negative_prompt"] = [negative] * clips
    for name, given in call.items():
        if isinstance(given, str) and (reader := _reader(name, given)) is not None:
            read = _read(name, given, *reader)
            arguments[name] = [read] * clips if name in PICTURES and clips is not None else read
        elif name in PICTURES and isinstance(given, list | tuple):
            arguments[name] = [
                _read(name, each, "picture", load_image) if isinstance(each, str) else each for each in given
            ]
    return arguments


def _read(name: str, given: str, what: str, read: Callable[[str], Any]) -> Any:
    """What lies at a path that an argument is."""
    if not Path(given).is_file():
        raise ModelError(f"model.call: {name}: there is no file {given!r}; give the path of a {what}")
    try:
        return read(given)
    except (ImportError, OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"model.call: {name}: {given!r} cannot be read as a {what}: {error}") from error
