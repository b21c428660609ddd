"""Model indices from the hub."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline

from f3core.errors import ModelError


def model_index(hub_id: str) -> dict[str, Any]:
    """``model_index.json`` of a hub id. Raises `ModelError` when it cannot be had."""
    try:
        return dict(DiffusionPipeline.load_config(hub_id))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{hub_id}: is no folder here, and the hub gave no model_index.json: {error}. Check the id and the "
            "connection, or download the model and give its folder"
        ) from error
