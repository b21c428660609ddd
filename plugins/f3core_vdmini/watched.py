"""Which blocks a loss looks at, and what comes out of them on the example row of a training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from f3core.distillation.loss import Bench
from f3core.distillation.watching import watching
from f3core.errors import ModelError, PluginError, suggest


def paths(loss: str, blocks: Sequence[str]) -> tuple[str, ...]:
    """The option ``blocks`` of a loss. Raises `PluginError` for anything but a list, such as one path alone."""
    if isinstance(blocks, str) or not all(isinstance(path, str) for path in blocks):
        raise PluginError(f"`blocks` of loss {loss!r} is a list of paths, not {blocks!r}")
    return tuple(blocks)


def chosen(loss: str, bench: Bench, blocks: Sequence[str]) -> tuple[str, ...]:
    """``blocks``, paths in the teacher, in the order in which they run. Raises `ModelError` for one that teacher and
    student do not share, and for none."""
    matched = [path for path, _ in bench.matched]
    for path in blocks:
        if path not in matched:
            raise ModelError(
                f"loss {loss!r} cannot look at block {path!r}, which is none that teacher and student both have: "
                + suggest(path, matched)
            )
    if not blocks:
        raise ModelError(f"loss {loss!r} has no block to look at; teacher and student share {len(matched)}")
    return tuple(path for path in matched if path in blocks)


def spread(bench: Bench, count: int) -> list[str]:
    """``count`` of the matched blocks (all where there are fewer), spread evenly over depth, the last among them."""
    matched = [path for path, _ in bench.matched]
    count = min(count, len(matched))
    return [matched[(i + 1) * len(matched) // count - 1] for i in range(count)]


def outputs(bench: Bench, paths: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of those blocks of the teacher on the example row, the first tensor of each. Raises `ModelError` for
    a block that did not run."""
    latents, levels, conditions = bench.example
    with torch.no_grad(), watching(bench.teacher, paths) as watched:
        bench.recipe.predict(bench.teacher, latents, levels, conditions)
    return watched.under({path: path for path in paths})
