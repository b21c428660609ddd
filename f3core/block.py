"""Blocks of a denoiser: what is skipped, or taken out, as one. Like `sites`, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from f3core.sites import AttentionSite, Place, Removal, Structure, Word


class Stage(Word):
    """Where in a denoiser a block lies."""

    STACK = "stack"
    """in a row of blocks that all work at one resolution"""
    DOWN = "down"
    MID = "mid"
    UP = "up"


@dataclass(frozen=True)
class Part:
    """One module of a block, and what stands for it once the block is skipped.

    Skipped, it hands on its first argument, or those that ``hands`` names, as a tuple where there are several; as a
    tuple of one where it is asked for by ``return_dict=False``, as transformers are. ``channels``: only so many
    of the first channels (dimension 1), where it is given more to take in than it hands on.
    """

    path: str
    hands: tuple[str, ...] = ()
    channels: int | None = None


@dataclass(frozen=True)
class Block(Place):
    """A block of a denoiser: what is skipped, or taken out, as one.

    ``path`` names it, ``index`` is its place on the layer axis: blocks of one index go together. ``parts``: its
    modules, in the order in which they run; the output of the last is the block's. ``fixed``: why it cannot go, as a
    clause; None where it can. ``needs``: paths of blocks without which alone it can go, such as all that lie between
    the downsampler and the upsampler that it consists of. ``stage``, ``level`` (0 is the outermost, of the full
    resolution) and ``number`` (its place in its stage of that level, in a stack its depth) say where it lies.
    """

    component: str
    path: str
    index: int
    parts: tuple[Part, ...]
    stage: Stage = Stage.STACK
    level: int = 0
    number: int = 0
    needs: tuple[str, ...] = ()
    fixed: str | None = None

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies and what it needs, as JSON takes it: all that plans are made from beside names."""
        return {
            "stage": str(self.stage),
            "level": self.level,
            "number": self.number,
            "needs": list(self.needs),
            "fixed": self.fixed,
        }

    @classmethod
    def placed(cls, component: str, path: str, index: int, place: Mapping[str, Any]) -> Block:
        """A block as far as plans need to know it: the inverse of `place`, without its modules."""
        stage, needs = Stage(place["stage"]), tuple(place["needs"])
        return cls(component, path, index, (), stage, place["level"], place["number"], needs, place["fixed"])

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of its parts."""
        return tuple(part.path for part in self.parts)

    @property
    def removals(self) -> Mapping[Structure, tuple[Removal, ...]]:  # type: ignore[override]
        """What can be done: taken out whole, at every step."""
        return {} if self.fixed else {Structure.BLOCK: (Removal.DROP,)}

    @property
    def lasting(self) -> Mapping[Structure, tuple[Removal, ...]]:  # type: ignore[override]
        """Blocks leave the model, so at every step or at none."""
        return {Structure.BLOCK: (Removal.DROP,)}


Site = AttentionSite | Block
"""A place where something can be taken away."""
