"""The sizes of a CogVideo transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from f3core.errors import ModelError, suggest

FRAME_START = 512
"""Position of the first token of the first frame; text positions count from 0 and stay below it."""

START_OF_IMAGE = 150_000
"""The published ``start_of_image``: their tokenizer, icetk, has 150000 tokens, to which they add this one first."""


@dataclass(frozen=True)
class CogVideoConfig:
    """Sizes; the defaults but for ``start_of_image`` are those of the published stage 1.

    The published stage 2 differs in ``stage`` and ``window`` = 10.

    ``layout`` is [text, text + one frame, text + all frames] in tokens. Logits are over the first ``image_vocab``
    tokens. ``window`` is the side of a temporal window in tokens (-1: the whole frame); odd layers shift it by half.
    ``positions`` and ``additional`` are the rows of the base position table and of the later frames' own one.

    ``start_of_image`` says what the S slots of a frame with tokens t0 ... t(S-1) are fed. None: its tokens, so that
    slot p predicts t(p+1), and the last slot before a frame its t0. An id: this one, then t0 ... t(S-2), so that slot p
    predicts t(p). Published weights want the latter, with `START_OF_IMAGE`.
    Raises `ModelError` for sizes that do not fit together.
    """

    layers: int = 48
    vocab: int = 150010
    image_vocab: int = 20000
    hidden: int = 3072
    heads: int = 48
    layout: tuple[int, int, int] = (64, 464, 2064)
    stage: int = 1
    window: int = -1
    positions: int = 912
    additional: int = 2000
    start_of_image: int | None = None

    def __post_init__(self) -> None:
        if len(self.layout) != 3:
            raise ModelError(f"layout {list(self.layout)}: expected [text, text + one frame, text + all frames]")
        object.__setattr__(self, "layout", tuple(self.layout))
        text, first, whole = self.layout
        if not 0 < text < first <= whole or (whole - text) % (first - text):
            raise ModelError(f"layout {list(self.layout)}: expected [text, text + one frame, text + all frames]")
        if text > FRAME_START:
            raise ModelError(f"layout {list(self.layout)}: at most {FRAME_START} text tokens have positions")
        if self.hidden % self.heads:
            raise ModelError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if self.stage not in (1, 2):
            raise ModelError(f"stage {self.stage}: there are stages 1 and 2")
        if not 0 < self.image_vocab <= self.vocab:
            raise ModelError(f"image_vocab {self.image_vocab} must be between 1 and vocab {self.vocab}")
        if self.start_of_image is not None and not 0 <= self.start_of_image < self.vocab:
            raise ModelError(f"start_of_image {self.start_of_image} must be an id below vocab {self.vocab}, or null")
        if self.window != -1 and (self.window < 1 or self.side**2 != self.tokens or self.side % self.window):
            raise ModelError(f"window {self.window} must divide the side of square frames (or be -1 for none)")

    @property
    def text(self) -> int:
        """Text tokens."""
        return self.layout[0]

    @property
    def tokens(self) -> int:
        """Tokens of one frame."""
        return self.layout[1] - self.layout[0]

    @property
    def frames(self) -> int:
        """Frames of a whole sequence."""
        return (self.layout[2] - self.layout[0]) // self.tokens

    @property
    def side(self) -> int:
        """Rows (and columns) of a square frame, in tokens."""
        return math.isqrt(self.tokens)

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> CogVideoConfig:
        """From JSON. Raises `ModelError` for a key that is no size."""
        known = [field.name for field in fields(cls)]
        for key in sizes:
            if key not in known:
                raise ModelError(f"unknown size {key!r} of a CogVideo transformer: {suggest(key, known)}")
        return cls(**sizes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "layout": list(self.layout)}
