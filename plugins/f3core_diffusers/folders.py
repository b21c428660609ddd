"""Classes and constructor arguments of denoisers, from the configs in a folder; no weight is read."""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ConfigMixin

from f3core.errors import ModelError

PREFIXES = ("transformer", "unet")
"""how pipelines name their denoisers"""


def skeletons(folder: Path) -> dict[str, tuple[type, dict[str, Any]]] | None:
    """By component, of a pipeline's folder or of one component's; None for a folder that is neither.

    Raises `ModelError` for a config that cannot be read, or a class that is not there.
    """
    if not (folder / "model_index.json").is_file():
        return {folder.name: _skeleton(folder, "diffusers")} if (folder / "config.json").is_file() else None
    named = {name: value for name, value in _read(folder / "model_index.json").items() if name.startswith(PREFIXES)}
    return {
        name: _skeleton(folder / name, value[0])
        for name, value in named.items()
        if isinstance(value, list) and len(value) == 2 and value[0]
    }


def _skeleton(folder: Path, library: str) -> tuple[type, dict[str, Any]]:
    config = _read(folder / "config.json")
    name = str(config.get("_class_name", "")).removeprefix("Pruned")
    found = getattr(diffusers, name, None) if name else None
    if found is None and name and library != "diffusers":
        with contextlib.suppress(ImportError):
            found = getattr(importlib.import_module(library), name, None)
    if not (isinstance(found, type) and issubclass(found, ConfigMixin)):
        raise ModelError(
            f"{folder / 'config.json'}: its _class_name is {name or 'missing'}, which is no model class of diffusers "
            f"{diffusers.__version__}{'' if library == 'diffusers' else f' or {library}'}; give the class as pkg.Class"
        )
    return found, dict(found.extract_init_dict(config)[0])


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file}: holds no config")
    return found
