"""`Average`: the exponential moving average of a module's parameters, which is what is sampled from and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn


class Average:
    """Kept beside ``parameters``, on their devices; a ``decay`` of 0 keeps nothing, the average is what they are."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.values: list[Tensor] = [p.detach().clone() for p in self.parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """After an update of the parameters p: average ← decay · average + (1 − decay) · p."""
        if self.values:
            torch._foreach_lerp_(self.values, cast("list[Tensor]", self.parameters), 1 - self.decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the module has the averaged weights; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def settle(self) -> None:
        """Leave the averaged weights in the module for good."""
        self._swap()
        self.values = []

    @torch.no_grad()
    def load(self, values: Sequence[Tensor]) -> None:
        """Take the average from a checkpoint."""
        for mine, value in zip(self.values, values, strict=True):
            mine.copy_(value)

    def _swap(self) -> None:
        for place, parameter in enumerate(self.parameters[: len(self.values)]):
            parameter.data, self.values[place] = self.values[place], parameter.data
