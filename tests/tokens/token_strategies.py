"""Keys, values, queries and places of attention calls, for hypothesis and by seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from f3core_tokens.evit import EViTReducer
from f3core_tokens.token_pruning import TokenPruningReducer
from f3core_tokens.tome import ToMeReducer
from f3core_tokens.tomesd import ToMeSDReducer
from f3core_tokens.tps import TPSReducer
from hypothesis import strategies as st
from torch import Tensor

from f3core.reduction import Places, Reduced, Reducer

REDUCERS: dict[str, Reducer] = {
    "tome": ToMeReducer(),
    "tomesd": ToMeSDReducer(3),
    "token_pruning": TokenPruningReducer(),
    "evit": EViTReducer(),
    "tps": TPSReducer(),
}
BY_ATTENTION = ("token_pruning", "evit", "tps")


@dataclass(frozen=True)
class Call:
    """An attention call whose keys are those of ``frames`` frames of ``grid`` rows and columns."""

    rows: int
    heads: int
    queries: int
    frames: int
    grid: tuple[int, int]
    seed: int
    width: int = 4

    @property
    def keys(self) -> int:
        return self.frames * self.grid[0] * self.grid[1]

    def tensors(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value as a model makes them (a transposed view), and a value of another width."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(length: int, width: int) -> Tensor:
            drawn = torch.randn(self.rows, length, self.heads, width, generator=generator)
            return drawn.to(dtype).transpose(1, 2)

        return draw(self.queries, self.width), draw(self.keys, self.width), draw(self.keys, self.width + 2)

    def places(self) -> Places:
        high, across = self.grid
        frame, row, column = torch.meshgrid(*map(torch.arange, (self.frames, high, across)), indexing="ij")
        return Places(frame.flatten(), row.flatten(), column.flatten())

    def reduced(self, reducer: Reducer, keep: int, dtype: torch.dtype = torch.float32) -> Reduced:
        return reducer.reduce(*self.tensors(dtype), self.places(), 0.5, keep)


calls = st.builds(
    Call,
    rows=st.integers(1, 3),
    heads=st.integers(1, 3),
    queries=st.integers(1, 5),
    frames=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 2**32 - 1),
).filter(lambda call: call.keys > 1)
