"""Moments do not depend on how features come, and the distance equals scipy's in float64, singular cases included."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from f3core_metrics.frechet import Moments, distance
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = ("plain", "copied", "constant", "scaled", "far")


def sample(rng: np.random.Generator, count: int, dimensions: int, kind: str) -> np.ndarray:
    """Features of ``count`` clips: correlated, with what makes covariances hard to take the root of."""
    rows = rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    if kind == "copied":
        rows[:, dimensions // 2 :] = rows[:, : dimensions - dimensions // 2]
    if kind == "constant":
        rows[:, : (dimensions + 1) // 2] = 0.3
    if kind == "scaled":
        rows *= 10.0 ** -np.arange(dimensions).clip(max=4)
    if kind == "far":
        rows += 1e4
    return rows


def by_scipy(first: np.ndarray, second: np.ndarray) -> float:
    """The formula as it is written, by scipy's root of the product; for covariances of full rank."""
    root = scipy.linalg.sqrtm(np.cov(first.T, ddof=1) @ np.cov(second.T, ddof=1))
    traces = np.trace(np.cov(first.T)) + np.trace(np.cov(second.T)) - 2 * np.trace(np.real(root))
    return float(np.square(first.mean(0) - second.mean(0)).sum() + traces)


def by_rows(first: np.ndarray, second: np.ndarray) -> float:
    """The same without any covariance, so that no rank matters: S = Xᵀ X, and the singular values of X1 X2ᵀ squared
    are the eigenvalues of S1 S2."""
    x, y = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (first, second))
    cross = scipy.linalg.svdvals(x @ y.T).sum()
    return float(np.square(first.mean(0) - second.mean(0)).sum() + np.square(x).sum() + np.square(y).sum() - 2 * cross)


def of(rows: np.ndarray) -> Moments:
    return Moments.of(torch.from_numpy(rows))


@pytest.mark.parametrize("dimensions", [2, 7, 64, 200])
def test_full_rank_equals_scipys_root_of_the_product(dimensions: int) -> None:
    rng = np.random.default_rng(dimensions)
    first, second = (sample(rng, 4 * dimensions, dimensions, "plain") for _ in range(2))
    assert distance(of(first), of(second)) == pytest.approx(by_scipy(first, second), rel=1e-7)
    assert by_rows(first, second) == pytest.approx(by_scipy(first, second), rel=1e-7)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    dimensions=st.integers(1, 24),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
)
def test_any_rank_equals_the_reference(
    seed: int, counts: tuple[int, int], dimensions: int, kinds: tuple[str, str]
) -> None:
    rng = np.random.default_rng(seed)
    first, second = (sample(rng, n, dimensions, kind) for n, kind in zip(counts, kinds, strict=True))
    assert distance(of(first), of(second)) == pytest.approx(by_rows(first, second), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [3, 50, 400])
def test_a_set_lies_nowhere_from_itself(kind: str, count: int) -> None:
    rows = sample(np.random.default_rng(count), count, 60, kind)
    shuffled = rows[np.random.default_rng(1).permutation(count)]
    spread = of(rows).covariance.trace().item()
    assert distance(of(rows), of(rows)) <= 1e-9 * spread
    assert distance(of(rows), of(shuffled)) <= 1e-9 * spread


@pytest.mark.parametrize("count", [40, 300])
def test_nearly_equal_sets_are_told_apart(count: int) -> None:
    # A distance 1e-8 of the traces that it is the difference of: no digit of it would be left to roots of rounding.
    rng = np.random.default_rng(0)
    rows = sample(rng, count, 64, "plain")
    moved = rows + 1e-3 * rng.normal(size=rows.shape)
    assert distance(of(rows), of(moved)) == pytest.approx(by_rows(rows, moved), rel=1e-4)


def test_features_of_one_value_each_lie_their_means_apart() -> None:
    one, other = torch.full((5, 8), 2.0), torch.full((9, 8), 5.0)
    assert distance(Moments.of(one), Moments.of(other)) == pytest.approx(8 * 9.0)
    assert distance(Moments.of(one), Moments.of(one[:3])) == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8), far=st.booleans())
def test_moments_do_not_depend_on_batching(seed: int, sizes: list[int], far: bool) -> None:
    rng = np.random.default_rng(seed)
    # A mean a million times the spread: a sum of squares minus a square of sums would keep four digits of it.
    rows = torch.from_numpy(rng.normal(size=(sum(sizes) + 2, 5)) + 1e6 * far)
    streamed, merged = Moments(5), Moments(5)
    for part in rows.split([2, *sizes]):
        streamed.add(part)
        one = Moments(5)
        one.add(part)
        merged.merge(one)
    for moments in (streamed, merged):
        assert moments.count == len(rows)
        torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
        centred = rows - rows.mean(0)
        torch.testing.assert_close(moments.covariance, centred.T @ centred / (len(rows) - 1), rtol=1e-8, atol=1e-8)


def test_merging_with_itself_counts_all_twice() -> None:
    rows = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = Moments.of(rows)
    moments.merge(moments)
    torch.testing.assert_close(moments.covariance, Moments.of(torch.cat([rows, rows])).covariance)


def test_moments_hold_one_matrix_however_many_clips() -> None:
    moments = Moments(16)
    for seed in range(50):
        moments.add(torch.randn(64, 16, generator=torch.Generator().manual_seed(seed)))
    held = [value for value in vars(moments).values() if isinstance(value, torch.Tensor)]
    assert moments.count == 3200
    assert sorted(value.untyped_storage().nbytes() for value in held) == [16 * 8, 16 * 16 * 8]


def test_refuses_what_has_no_distance() -> None:
    rows = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="two clips or more, got 1 and 3"):
        distance(Moments.of(rows[:1]), Moments.of(rows))
    with pytest.raises(ValueError, match="4 dimensions, and of 5"):
        distance(Moments.of(rows), Moments.of(torch.zeros(3, 5)))
    with pytest.raises(ValueError, match=r"must be \[N, 4\]"):
        Moments(4).add(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"must be \[N, D\]"):
        Moments.of(torch.zeros(3))
    with pytest.raises(ValueError, match="do not merge"):
        Moments(4).merge(Moments(5))
    with pytest.raises(ValueError, match="NaN"):
        Moments(1).add(torch.tensor([[1.0], [float("nan")]]))
    with pytest.raises(ValueError, match="two clips or more"):
        _ = Moments(4).covariance
