"""Transformers of fewer layers: what is left of one whose layers went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from f3core.skipping import Skip
from f3core_cogvideo.model import CogVideoTransformer, Layer
from f3core_cogvideo.visibility import windows


def standing(model: CogVideoTransformer) -> Iterator[tuple[int, Layer]]:
    """The layers that are not skipped for good, with their numbers."""
    for number, layer in enumerate(model.transformer.layers):
        if not isinstance(layer, Skip):
            yield number, layer


def shorten_(model: CogVideoTransformer) -> bool:
    """Take layers that are skipped out of the model, and write the number of those left into its config.

    False, and nothing is altered, where a layer would come to lie where temporal windows are shifted otherwise.
    """
    left, config = list(standing(model)), model.config
    if any(windows(config, number) != windows(config, place) for place, (number, _) in enumerate(left)):
        return False
    for place, (_, layer) in enumerate(left):
        layer.attention.layer = layer.attention_plus.layer = place
    model.transformer.layers = nn.ModuleList(layer for _, layer in left)
    model.config = replace(config, layers=len(left))
    return True
