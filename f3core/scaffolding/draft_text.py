"""Pieces of drafted source that adapters of every kind share: marks, layouts of latents, and example inputs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from f3core.scaffolding.input_code import Dialect, ForwardArgument

WIDTH = 120
EXAMPLE_INPUTS = (
    "def example_inputs(",
    "    self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None",
    ") -> dict[str, Any]:",
)
"""the head of the method"""


def mark(words: str, *, decide: bool = False) -> list[str]:
    """A comment that marks what is below it, as many lines as it needs."""
    first, *rest = textwrap.wrap(words, WIDTH - 24, break_long_words=False)
    return [f"# {'DECIDE' if decide else 'CHECK'}: {first}", *(f"# {line}" for line in rest)]


def indented(lines: Iterable[str], by: int = 4) -> list[str]:
    """Lines moved to the right."""
    return [f"{' ' * by}{line}" if line else "" for line in lines]


def called(name: str, options: Sequence[str], *, by: int) -> list[str]:
    """An item ``name(options),`` of a dict ``by`` levels deep in a class: a line if it fits, or one an option."""
    line = f"{name}({', '.join(options)}),"
    if len(line) + 4 * by <= WIDTH:
        return [line]
    return [f"{name}(", *indented([f"{each}," for each in options]), "),"]


def video_of(inputs: Sequence[ForwardArgument]) -> ForwardArgument | None:
    """The argument that holds the noisy latents: the first that is a video."""
    return next((each for each in inputs if each.is_video), None)


def text_of(inputs: Sequence[ForwardArgument]) -> ForwardArgument | None:
    """The argument that holds text embeddings: the first that is text."""
    return next((each for each in inputs if each.is_text), None)


def sizes_of(video: ForwardArgument) -> list[str] | None:
    """Statements that take ``batch``, ``frames``, ``height`` and ``width`` from a video argument; None where its layout
    is none of the usual ones."""
    parts = [part.strip() for part in video.value.split(",")]
    shape = f'argument(args, kwargs, "{video.name}", {video.position}).shape'
    if len(parts) == 5 and parts[0] == "B" and {"F", "H", "W"} <= {*parts}:
        names = {"B": "batch", "F": "frames", "H": "height", "W": "width"}
        return [f"{', '.join(names.get(part, '_') for part in parts)} = {shape}"]
    return None


def packed_sizes(video: ForwardArgument, positions: Mapping[str, int]) -> list[str] | None:
    """As `sizes_of`, where latents are packed and numbers beside them tell how; None where they do not."""
    names = {"frames": "num_frames", "height": "height", "width": "width"}
    if video.value.replace(" ", "").split(",")[:2] != ["B", "F*H*W"] or not positions.keys() >= {*names.values()}:
        return None
    lines = [f'batch = argument(args, kwargs, "{video.name}", {video.position}).shape[0]']
    lines += [f'{own} = argument(args, kwargs, "{name}", {positions[name]})' for own, name in names.items()]
    return lines


def input_lines(inputs: Sequence[ForwardArgument], config: Mapping[str, Any], dialect: Dialect) -> list[str]:
    """Items of the dict that example_inputs returns, each marked where it is not sure."""
    lines = []
    for each in inputs:
        if each.unnamed:
            numbers = " and ".join(map(str, each.unnamed))
            words = f"the config has no {numbers}, as in {each.name}={each.value}; say how it follows from the config"
            lines += mark(words, decide=True)
        lines.append(f'"{each.name}": {each.source(config, dialect)},')
    return lines
