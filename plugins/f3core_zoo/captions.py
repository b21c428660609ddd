"""The 120 captions of the moving-digits world, and the way back from a caption to what it says.

Imports nothing heavy, so that listing the prompts costs nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

DIGITS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS: tuple[str, ...] = ("red", "green", "blue")
DIRECTIONS: tuple[str, ...] = ("left", "right", "up", "down")


@dataclass(frozen=True)
class Scene:
    """What one caption says, as indices into `DIGITS`, `COLOURS` and `DIRECTIONS`."""

    digit: int
    colour: int
    direction: int

    @property
    def caption(self) -> str:
        """The caption, e.g. ``"a red three moving left"``."""
        return f"a {COLOURS[self.colour]} {DIGITS[self.digit]} moving {DIRECTIONS[self.direction]}"


SCENES: tuple[Scene, ...] = tuple(
    Scene(digit, colour, direction)
    for digit in range(len(DIGITS))
    for colour in range(len(COLOURS))
    for direction in range(len(DIRECTIONS))
)
PROMPTS: tuple[str, ...] = tuple(scene.caption for scene in SCENES)
_BY_CAPTION: dict[str, Scene] = dict(zip(PROMPTS, SCENES, strict=True))


def parse(caption: str) -> Scene:
    """Return the scene that `caption` describes.

    Case and surplus white space are ignored. Raises `ValueError` for anything that is not one of `PROMPTS`.
    """
    scene = _BY_CAPTION.get(" ".join(caption.lower().split()))
    if scene is None:
        raise ValueError(f"not a moving-digits caption: {caption!r}; expected one like {PROMPTS[0]!r}")
    return scene


def prompts(n: int, seed: int = 0) -> list[str]:
    """Return `n` captions, each of the 120 used before any is used again, in an order fixed by `seed`.

    A choice shorter than 120 is balanced too: digits, colours and directions each appear as evenly as `n` allows.
    Raises `ValueError` when `n` is negative.
    """
    if n < 0:
        raise ValueError(f"cannot choose {n} prompts")
    rng = random.Random(seed)
    chosen: list[str] = []
    while len(chosen) < n:
        chosen.extend(scene.caption for scene in _balanced_round(rng))
    return chosen[:n]


def _balanced_round(rng: random.Random) -> list[Scene]:
    """All scenes once, ordered so that every prefix is balanced in each of the three attributes."""
    digits, colours, directions = (rng.sample(range(k), k) for k in (len(DIGITS), len(COLOURS), len(DIRECTIONS)))
    # Steps through 10 x 12 (colour, direction) pairs: within a block of ten all digits differ, and the pair index
    # moves on by one each time; the block number is added so that no (digit, pair) comes twice.
    pairs = [(colours[i % 3], directions[i % 4]) for i in range(12)]
    order: list[Scene] = []
    for block in range(12):
        for i in range(10):
            colour, direction = pairs[(block * 11 + i) % 12]
            order.append(Scene(digits[i], colour, direction))
    return order
