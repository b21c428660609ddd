"""Token reduction: fewer keys and values for a kind of attention, chosen or merged at every forward.

The interface of methods that do that (see `Method.removals`); `reducing` carries it out at sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Reduced:
    """Keys and values [N, H, n', D] that stand for more; ``bias`` [N, 1 or H, 1, n'] is added to their logits."""

    key: Tensor
    value: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Places:
    """Where keys lie in the clip: ``frame``, ``row`` and ``column``, each int64 [n] on the CPU.

    The same object comes with every call of one kind, so what only depends on it can be kept by `once`.
    """

    frame: Tensor
    row: Tensor
    column: Tensor
    kept: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, build: Callable[[], T]) -> T:
        """What ``build`` gives, kept under ``key``."""
        if key not in self.kept:
            self.kept[key] = build()
        made: T = self.kept[key]
        return made


class Reducer(ABC):
    """Makes the keys of a kind fewer."""

    @abstractmethod
    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        """``keep`` keys, of 1 to n - 1, that stand for n.

        ``query`` [N, H, Lq, D], ``key`` and ``value`` [N, H, n, D], as the attention call has them, which multiplies
        logits by ``scale``. Rows are independent. Shapes of what comes out follow from shapes of what goes in, so that
        it can be counted on meta, and nothing is drawn that does not come out the same at the next call.
        """


class Merger(ABC):
    """Merges tokens of a frame before a module and copies its output back to them behind it."""

    @abstractmethod
    def merge(self, tokens: Tensor, grid: tuple[int, int], keep: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``tokens`` [N, S, C] of frames of ``grid`` rows and columns to [N, keep, C], and the way back for a tensor
        [N, keep, C']. ``keep`` of at least one; drawn alike at every call."""
