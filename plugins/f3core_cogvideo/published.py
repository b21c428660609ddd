"""The published parameter names, and models made from published weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from f3core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from f3core_cogvideo.model import CogVideoTransformer

_EXTRA = "mixins.extra_position_embedding.position_embeddings."
_OWN_EXTRA = "transformer.extra_position_embeddings."
_PLUS = re.compile(r"mixins\.attention_plus\.(query_key_value|dense|attn_distribution)\.(\d+)(\.\w+)?")
_OWN_PLUS = re.compile(r"transformer\.layers\.(\d+)\.attention_plus\.(query_key_value|dense|attn_distribution)(\.\w+)?")


def own_name(name: str) -> str:
    """Our name of a published parameter; our own names stay."""
    if match := _PLUS.fullmatch(name):
        part, layer, leaf = match.groups(default="")
        return f"transformer.layers.{layer}.attention_plus.{part}{leaf}"
    return _OWN_EXTRA + name.removeprefix(_EXTRA) if name.startswith(_EXTRA) else name


def published_name(name: str) -> str:
    """The published name of one of our parameters."""
    if match := _OWN_PLUS.fullmatch(name):
        layer, part, leaf = match.groups(default="")
        return f"mixins.attention_plus.{part}.{layer}{leaf}"
    return _EXTRA + name.removeprefix(_OWN_EXTRA) if name.startswith(_OWN_EXTRA) else name


def to_own_names_(state_dict: dict[str, Tensor], prefix: str = "") -> None:
    """Rename the published names in a state dict, in place."""
    for key in list(state_dict):
        if key.startswith(prefix) and (new := prefix + own_name(key[len(prefix) :])) != key:
            state_dict[new] = state_dict.pop(key)


def to_published_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under their published names."""
    return {published_name(key): value for key, value in state_dict.items()}


def load_published(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> CogVideoTransformer:
    """A transformer with published weights. ``config``: sizes, where they are not those of the published stage 1.

    The rows of the position tables are read off the weights where ``config`` does not give them; with the published
    vocabulary, frames begin with its start of image. Raises `ModelError`
    for an unknown size and for weights that do not fit the sizes.
    """
    from f3core_cogvideo.config import START_OF_IMAGE, CogVideoConfig
    from f3core_cogvideo.model import CogVideoTransformer

    sizes = dict(config or {})
    for size, name in (("positions", "transformer.position_embeddings."), ("additional", _EXTRA)):
        table = state_dict.get(f"{name}weight")
        if table is not None:
            sizes.setdefault(size, table.shape[0])
    if "vocab" in sizes:
        sizes.setdefault("image_vocab", min(sizes["vocab"], CogVideoConfig.image_vocab))
    if sizes.get("vocab", CogVideoConfig.vocab) == CogVideoConfig.vocab:
        sizes.setdefault("start_of_image", START_OF_IMAGE)
    model = CogVideoTransformer(CogVideoConfig.from_dict(sizes))
    try:
        model.load_state_dict(dict(state_dict), strict=True)
    except RuntimeError as error:
        raise ModelError(f"these weights are no CogVideo transformer of sizes {sizes}: {error}") from error
    return model.eval()
