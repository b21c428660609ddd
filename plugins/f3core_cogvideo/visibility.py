"""Who may see whom: frames, windows, and what is left out of a channel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from f3core.clock import Gate
from f3core_cogvideo.config import CogVideoConfig


@dataclass(frozen=True)
class Sees:
    """The kinds of keys that frame tokens of a channel may see; one left out is not among the keys at all.

    ``text``: text tokens (CA); ``own``: the own frame (SA); ``earlier``: other frames, which only the temporal channel
    sees (TA), earlier ones and, in stage 2, given ones.
    """

    text: bool = True
    earlier: bool = True
    own: bool = True


@dataclass(frozen=True)
class Narrowed:
    """What a channel sees in the steps at which ``gate`` is on."""

    sees: Sees
    gate: Gate


def seen_at(sees: Sees, narrowed: Narrowed | None, level: float) -> Sees:
    """What a channel sees at a noise level."""
    return sees if narrowed is None or not narrowed.gate.active_at(level) else narrowed.sees


def alike(numbers: Sequence[int], seen: Callable[[int], Sees]) -> list[tuple[Sees, list[int]]]:
    """The places in ``numbers`` of the frames that see the same kinds of keys, by what ``seen`` says of a number."""
    found: dict[Sees, list[int]] = {}
    for place, number in enumerate(numbers):
        found.setdefault(seen(number), []).append(place)
    return list(found.items())


def noise_level(stage: int, frame: int, frames: int) -> float:
    """The step of a frame in a sequence of ``frames``: how many are still to make once it is there, so that it falls
    from step to step as noise does.

    Given frames of stage 2 are one step, before all others. The first frame of stage 1 is no step of its own: it sees
    no other frame, so a step of it would rank first and save nothing. It belongs to that of the second frame.
    """
    if stage == 1:
        return float(max(0, frames - 1 - max(frame, 1)))
    made = frames // 2
    return float(made if given(stage, frame) else made - 1 - frame // 2)


def other_frames(stage: int, frame: int, frames: tuple[int, ...]) -> tuple[int, ...]:
    """Those of ``frames`` that the temporal channel of frame number ``frame`` sees besides its own, ascending.

    Stage 1: earlier ones. Stage 2: given (even) ones, and for a generated (odd) frame the earlier generated ones too.
    """
    if stage == 1:
        return tuple(f for f in sorted(frames) if f < frame)
    return tuple(f for f in sorted(frames) if f != frame and (f % 2 == 0 or (frame % 2 and f < frame)))


def generation_order(stage: int, frames: int) -> tuple[int, ...]:
    """Frame numbers in the order in which generation meets them: what is visible to a frame comes before it.

    Given frames of stage 2 come together, first.
    """
    return tuple(range(frames)) if stage == 1 else (*range(0, frames, 2), *range(1, frames, 2))


def given(stage: int, frame: int) -> bool:
    """Whether a frame is an input of stage 2: its tokens see each other in both directions."""
    return stage == 2 and frame % 2 == 0


def _bands(side: int, window: int, shift: int) -> list[range]:
    """How window borders cut ``side`` rows when the first border lies at ``shift``."""
    borders = sorted({0, side, *range(shift % window, side, window)})
    return [range(a, b) for a, b in itertools.pairwise(borders)]


@lru_cache(maxsize=256)
def windows(config: CogVideoConfig, layer: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The temporal windows of a layer: groups of windows of equal token count, each the in-frame places it holds.

    A shifted window that wraps around the frame counts as the pieces that lie together in the picture: these do not
    see each other. Without windows there is one group of one window, the frame. A window as large as the frame is
    shifted in odd layers like any other.
    """
    if config.window == -1:
        return ((tuple(range(config.tokens)),),)
    shift = config.window // 2 if layer % 2 else 0
    bands = _bands(config.side, config.window, shift)
    groups: dict[int, list[tuple[int, ...]]] = {}
    for rows in bands:
        for columns in bands:
            places = tuple(r * config.side + c for r in rows for c in columns)
            groups.setdefault(len(places), []).append(places)
    return tuple(tuple(groups[size]) for size in sorted(groups, reverse=True))
