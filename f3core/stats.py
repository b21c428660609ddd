"""Small statistics that studies share: rank correlation, and a mean with its spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from f3core.impact import Array


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


_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t for 1 to 10 degrees of freedom"""


def _t975(freedom: int) -> float:
    """The quantile, beyond the table by the first terms of its expansion around the normal one (to 0.1 %)."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


class Figure(BaseModel):
    """Mean and standard deviation (of these values as a whole: 0 for a single one), over seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    mean: float
    sd: float
    half_width: float | None = None
    """of the 95 % interval of the mean, by Student's t; None for a single value"""

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Of one value a seed. Raises `ValueError` for none."""
        array = np.asarray(list(values), dtype=np.float64)
        if not array.size:
            raise ValueError("no value to average")
        half = _t975(array.size - 1) * float(array.std(ddof=1)) / array.size**0.5 if array.size > 1 else None
        return cls(mean=float(array.mean()), sd=float(array.std()), half_width=half)

    def interval(self, form: str = "+.2f", within: float = math.inf) -> str:
        """``+0.91 [+0.88, +0.94]``, the mean and its 95 % interval (cut off at ± ``within``), or the mean alone."""
        if self.half_width is None:
            return self.text(False, form)
        ends = (max(-within, self.mean - self.half_width), min(within, self.mean + self.half_width))
        low, high = (f"{end:{form}}".replace("-", "−") for end in ends)
        return f"{self.text(False, form)} [{low}, {high}]"

    def text(self, spread: bool, form: str = ".3g") -> str:
        """``0.912 ± 0.01``, or without the ``spread`` the mean alone. ``form``: of the mean."""
        mean = f"{self.mean:{form}}".replace("-", "−", 1) if self.mean < 0 else f"{self.mean:{form}}"
        return f"{mean} ± {self.sd:.1g}" if spread else mean


def spread_over(seeds: Sequence[int]) -> str:
    """What a picture shows of figures over these seeds."""
    return f"mean ± sd over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
