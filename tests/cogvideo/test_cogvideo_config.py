"""Sizes: the published ones, what follows from them, and what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_cogvideo
from f3core_cogvideo import CogVideoConfig

from f3core.errors import ModelError


def test_defaults_are_the_published_sizes() -> None:
    sizes = CogVideoConfig()
    assert (sizes.layers, sizes.hidden, sizes.heads, sizes.vocab, sizes.image_vocab) == (48, 3072, 48, 150010, 20000)
    assert (sizes.text, sizes.tokens, sizes.frames, sizes.side) == (64, 400, 5, 20)


def test_comes_back_from_json() -> None:
    sizes = tiny_cogvideo.config(stage=2, window=3, start_of_image=29)
    assert CogVideoConfig.from_dict(sizes.to_dict()) == sizes
    assert hash(CogVideoConfig.from_dict(sizes.to_dict())) == hash(sizes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": (5, 14)}, "layout"),
        ({"layout": (5, 14, 24)}, "layout"),
        ({"layout": (0, 9, 18)}, "layout"),
        ({"layout": (600, 609, 618)}, "at most 512 text tokens"),
        ({"heads": 5}, "hidden 32 is no multiple of heads 5"),
        ({"stage": 3}, "there are stages 1 and 2"),
        ({"image_vocab": 31}, "image_vocab 31 must be between 1 and vocab 30"),
        ({"start_of_image": 30}, "start_of_image 30 must be an id below vocab 30, or null"),
        ({"start_of_image": -1}, "start_of_image -1 must be"),
        ({"window": 0}, "window 0"),
        ({"window": 2}, "window 2 must divide"),
        ({"tokens": 8, "window": 2}, "window 2 must divide the side of square frames"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny_cogvideo.config(**changes)
