"""What stands where a block was: modules without parameters that hand on what they are given.

A block that is skipped at some forwards only (while removals are tried out) keeps its weights and steps aside.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from f3core.attention import become_
from f3core.block import Block, Part
from f3core.clock import Gate
from f3core.errors import PlanError


class Skip(nn.Module):
    """Stands where a part of a block was: no parameters, no work. ``parameters``: names of the forward's arguments."""

    def __init__(self, part: Part, names: Sequence[str]) -> None:
        super().__init__()
        self.part = part
        self.names = tuple(names)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return handed_on(self.part, self.names, args, kwargs)


class _Skippable(nn.Module):
    """Steps aside while its gate is active."""

    f3_gate: Gate
    f3_part: Part
    f3_names: tuple[str, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.f3_gate.active():
            return super().forward(*args, **kwargs)
        return handed_on(self.f3_part, self.f3_names, args, kwargs)


def handed_on(part: Part, names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a skipped part gives for these arguments; see `Part`."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    handed = [given[name] for name in part.hands or names[:1]]
    if part.channels is not None and isinstance(handed[0], Tensor):
        handed[0] = handed[0][:, : part.channels]
    if len(handed) > 1 or given.get("return_dict") is False:
        return tuple(handed)
    return handed[0]


def skip_(denoiser: nn.Module, block: Block, gate: Gate) -> None:
    """Skip a block in place wherever ``gate`` is active; its weights leave the denoiser where that is always."""
    for part in block.parts:
        module = denoiser.get_submodule(part.path)
        names = tuple(inspect.signature(module.forward).parameters)
        if gate.always:
            denoiser.set_submodule(part.path, Skip(part, names))
        else:
            become_(module, _Skippable, f3_gate=gate, f3_part=part, f3_names=names)


def check_blocks(blocks: Iterable[Block], gone: Iterable[str]) -> None:
    """Raises `PlanError`, naming the block and the reason, where the blocks at the paths ``gone`` cannot all go."""
    every, paths = {block.path: block for block in blocks}, set(gone)
    for path in sorted(paths & every.keys()):
        block = every[path]
        if block.fixed:
            raise PlanError(f"block {block.fqn} cannot go: {block.fixed}")
        missing = [needed for needed in block.needs if needed not in paths]
        if missing:
            raise PlanError(
                f"block {block.fqn} can only go together with {', '.join(missing)}; take those out too, or leave it in"
            )
