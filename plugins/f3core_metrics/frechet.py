"""Moments of features, gathered batch by batch, and the Fréchet distance between two sets of them.

Memory is one D × D matrix a set, however many clips there are. Everything is float64: a covariance taken from float32
sums loses the digits that near-equal sets differ in.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Count, mean [D] and covariance [D, D] of feature vectors that come in batches of any size.

    ``scatter`` [D, D] sums the outer products of deviations from the mean; sets merge by the update of Chan, Golub and
    LeVeque (1979), which never subtracts large sums from each other, so that a mean far from 0 costs no digits.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self.scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of one batch [N, D]. Raises as `add` does."""
        if features.ndim != 2:
            raise ValueError(f"features must be [N, D], not {list(features.shape)}")
        moments = cls(features.shape[1])
        moments.add(features)
        return moments

    def add(self, features: Tensor) -> None:
        """Take in a batch [N, D]. Raises `ValueError` for another shape, and for NaN or infinity."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features must be [N, {len(self.mean)}], not {list(features.shape)}")
        rows = features.detach().to("cpu", torch.float64)
        if not len(rows):
            return
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("features hold NaN or infinity")
        mean = rows.mean(0)
        centred = rows - mean
        self._join(len(rows), mean)
        self.scatter.addmm_(centred.T, centred)

    def merge(self, other: Moments) -> None:
        """Take in all that another set holds, which stays as it is. Raises `ValueError` for other dimensions."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"features of {len(other.mean)} dimensions do not merge with {len(self.mean)}")
        if not other.count:
            return
        scatter = other.scatter.clone() if other is self else other.scatter
        self._join(other.count, other.mean.clone())
        self.scatter += scatter

    def _join(self, count: int, mean: Tensor) -> None:
        """Move count and mean, and add to the scatter what the two means lie apart."""
        total = self.count + count
        apart = mean - self.mean
        self.scatter.addr_(apart, apart, alpha=self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """Unbiased, divided by count − 1. Raises `ValueError` for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two clips or more, got {self.count}")
        return self.scatter / (self.count - 1)


def distance(first: Moments, second: Moments) -> float:
    """Fréchet distance |m1 − m2|² + tr S1 + tr S2 − 2 tr (S1 S2)^(1/2) between Gaussians of these moments.

    With S = A Aᵀ, the eigenvalues of S1 S2 are the squared singular values of A1ᵀ A2, so the last trace is their sum.
    No root of a near-singular product is taken, which `scipy.linalg.sqrtm` may fail at or answer in complex numbers;
    nor are roots of computed squares, as of eigvalsh(S1^(1/2) S2 S1^(1/2)), whose rounding error ε would grow to √ε.
    Raises `ValueError` for fewer than two vectors on a side, or for two numbers of dimensions.
    """
    if min(first.count, second.count) < 2:
        raise ValueError(f"a Fréchet distance needs two clips or more, got {first.count} and {second.count}")
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {len(first.mean)} dimensions, and of {len(second.mean)}, cannot be compared")
    spread_1, spread_2 = first.covariance, second.covariance
    cross = torch.linalg.svdvals(_factor(spread_1).T @ _factor(spread_2)).sum()
    apart = (first.mean - second.mean).square().sum()
    return max(0.0, (apart + spread_1.trace() + spread_2.trace() - 2 * cross).item())


def _factor(spread: Tensor) -> Tensor:
    """A [D, R] with A Aᵀ = ``spread`` of rank R.

    Eigenvalues below the rounding error of the largest are zeros of a rank-deficient set, and taken for such: left in,
    each would count with its root.
    """
    values, vectors = torch.linalg.eigh(spread)
    floor = values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    kept = values > floor
    return vectors[:, kept] * values[kept].sqrt()
