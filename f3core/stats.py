"""Small statistics that studies share: rank correlation, and a mean with its spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

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


def mean_sd(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (of this population: 0 for a single value). Raises `ValueError` for none."""
    array = np.asarray(list(values), dtype=np.float64)
    if not array.size:
        raise ValueError("no value to average")
    return float(array.mean()), float(array.std())


def with_spread(values: Iterable[float], digits: int = 3, sign: str = "") -> str:
    """``0.912 ± 0.013``: mean and standard deviation, which is left out for a single value.

    ``sign``: "+" to show it always.
    """
    found = list(values)
    mean, sd = mean_sd(found)
    text = f"{mean:{sign}.{digits}g}".replace("-", "−")
    return text if len(found) == 1 else f"{text} ± {sd:.2g}"
