"""A transformer as a folder: sizes, and the plan it was pruned by, in ``config.json``; published names in the weights.

Loading builds the unpruned model without weights, applies the plan to it and then fills it, strictly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from f3core.carrying import CONFIG_KEY, aligned_, apply_carried_
from f3core.errors import ModelError
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.published import to_published_names

if TYPE_CHECKING:
    from f3core_cogvideo.model import CogVideoTransformer

CLASS = "CogVideoTransformer"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `ModelError` for a file that is missing or none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object")
    return found


def save_transformer(model: CogVideoTransformer, folder: Path) -> None:
    """Write a transformer, pruned or not; into the folder that it was loaded from, too."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"_class_name": CLASS, **model.config.to_dict()}
    if model.recorded is not None:
        config[CONFIG_KEY] = dict(model.recorded)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # its weights may be mapped from the very file that is to be written
    unfinished = folder / f"{WEIGHTS}.partial"
    save_file({k: v.contiguous() for k, v in to_published_names(model.state_dict()).items()}, unfinished)
    unfinished.replace(folder / WEIGHTS)


def skeleton(folder: Path) -> CogVideoTransformer:
    """The transformer of a folder on the meta device, pruned if that one is. Raises `ModelError`."""
    from f3core_cogvideo.adapter import CogVideoAdapter
    from f3core_cogvideo.model import CogVideoTransformer

    path = folder / CONFIG
    config = read_json(path)
    if (found := config.pop("_class_name", CLASS)) != CLASS:
        raise ModelError(f"{path} is of a {found}, not of a {CLASS}")
    carried = config.pop(CONFIG_KEY, None)
    try:
        sizes = CogVideoConfig.from_dict(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    with torch.device("meta"):
        model = CogVideoTransformer(sizes)
    if carried is not None:
        apply_carried_(model, carried, where=str(path), adapter=CogVideoAdapter())
    return model.eval()


def load_transformer(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> CogVideoTransformer:
    """The transformer of a folder; ``dtype`` None keeps that of the file. Raises `ModelError`."""
    model = skeleton(folder)
    path = folder / WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    state = {k: v.to(device=device, dtype=dtype) for k, v in weights.items()}
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{path} does not hold the weights that {CONFIG} beside it calls for: {error}") from error
    aligned_(model)
    return model
