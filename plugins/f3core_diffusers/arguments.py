"""What a spec's ``model.call`` may say to a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.utils import load_image

from f3core.errors import ModelError, suggest

OURS = frozenset({"prompt", "num_videos_per_prompt", "num_inference_steps", "generator", "output_type"})
"""arguments of a pipeline that the spec's own keys decide"""


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


def opened(call: Mapping[str, Any], clips: int) -> dict[str, Any]:
    """A call whose ``image`` is opened, once a clip: pipelines that start from an image are given its path in a spec.

    Raises `ModelError` when there is no such image.
    """
    arguments = dict(call)
    if isinstance(given := call.get("image"), str):
        if not Path(given).is_file():
            raise ModelError(f"model.call: image: there is no file {given!r}; give the path of a picture")
        try:
            arguments["image"] = [load_image(given)] * clips
        except (OSError, ValueError) as error:
            raise ModelError(f"model.call: image: {given!r} cannot be read as a picture: {error}") from error
    return arguments
