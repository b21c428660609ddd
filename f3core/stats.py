"""Small statistics that studies share: rank correlation, and a mean with its spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from f3core.scores import Array


def spearman(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one side is constant."""
    a, b = _ranks(first), _ranks(second)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float] | Array) -> Array:
    array = np.asarray(values, dtype=np.float64)
    below = (array[None, :] < array[:, None]).sum(1)
    equal = (array[None, :] == array[:, None]).sum(1)
    ranks: Array = below + (equal - 1) / 2.0
    return ranks


class Figure(BaseModel):
    """Mean and standard deviation (of these values as a whole: 0 for a single one), over seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Of one value a seed. Raises `ValueError` for none."""
        array = np.asarray(list(values), dtype=np.float64)
        if not array.size:
            raise ValueError("no value to average")
        return cls(mean=float(array.mean()), sd=float(array.std()))

    def text(self, spread: bool, form: str = ".3g") -> str:
        """``0.912 ± 0.01``, or without the ``spread`` the mean alone. ``form``: of the mean."""
        mean = f"{self.mean:{form}}".replace("-", "−", 1) if self.mean < 0 else f"{self.mean:{form}}"
        return f"{mean} ± {self.sd:.1g}" if spread else mean


def spread_over(seeds: Sequence[int]) -> str:
    """What a picture shows of figures over these seeds."""
    return f"mean ± sd over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
