"""Principal components of patch features, the same on every run, and values as shares of a robust range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS = 8192
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes:
        scores: (N, k) float64, each column of mean 0; columns beyond the rank of the features are 0.
        shares: (k,) share of the whole variance that each explains, from 0 to 1.
    """

    scores: NDArray[np.float64]
    shares: NDArray[np.float64]


def principal_components(features: NDArray[np.float32], count: int) -> Components:
    """The first components of features, from the largest variance to the smallest.

    A component's sign is arbitrary: here the largest of its loadings by absolute value is positive.

    Args:
        features: (N, D), finite; N may be 0.
        count: k, at most D.
    """
    n_rows, dim = features.shape
    scores = np.zeros((n_rows, count))
    shares = np.zeros(count)
    if n_rows < 2:
        return Components(scores, shares)
    mean = features.mean(axis=0, dtype=np.float64)
    loadings, squares = _by_rows(features - mean, count) if n_rows < dim else _by_columns(features, mean, count)
    # A direction whose variance is that of rounding has none.
    least = max(n_rows * dim * _EPSILON * squares[0], n_rows * float(mean @ mean) * _EPSILON**1.5)
    found = int((squares[:count] > least).sum())
    if found:
        loadings = loadings[:, :found]
        loadings = loadings * np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(found)])
        for start in range(0, n_rows, _BLOCK_ROWS):
            scores[start : start + _BLOCK_ROWS, :found] = (features[start : start + _BLOCK_ROWS] - mean) @ loadings
        shares[:found] = squares[:found] / squares.sum()
    return Components(scores, shares)


def _by_rows(centred: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loadings (D, k) and all sums of squares, from the products of rows; quicker where there are fewer of these."""
    squares, vectors = _eigen(centred @ centred.T)
    loadings = centred.T @ vectors[:, :count]
    return loadings / np.linalg.norm(loadings, axis=0).clip(_EPSILON), squares


def _by_columns(
    features: NDArray[np.float32], mean: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same from the products of columns, without a copy of all features in float64."""
    scatter = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), _BLOCK_ROWS):
        block = features[start : start + _BLOCK_ROWS] - mean
        scatter += block.T @ block
    squares, vectors = _eigen(scatter)
    return vectors[:, :count], squares


def _eigen(symmetric: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, none below 0, and eigenvectors in columns, from the largest."""
    values, vectors = np.linalg.eigh(symmetric)
    return values[::-1].clip(0), vectors[:, ::-1]


def robust_range(values: NDArray[np.float64], *, fenced: bool = False) -> tuple[float, float]:
    """From the 2nd to the 98th percentile of values; (0, 0) where there are none.

    Args:
        values: of any number.
        fenced: go no further than 1.5 interquartile ranges beyond the quartiles, so that a group of patches far off
            (pen, the edge of the scan) does not leave all others in one colour.
    """
    if not values.size:
        return 0.0, 0.0
    low, first, third, high = np.percentile(values, [2, 25, 75, 98])
    if fenced and third > first:
        low, high = max(low, first - 1.5 * (third - first)), min(high, third + 1.5 * (third - first))
    if low == high:  # nearly all are equal: what differs should still show
        low, high = values.min(), values.max()
    return float(low), float(high)


def scaled(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """Values as shares of a range, from 0 to 1; what lies beyond has the share of that end, and all are 0.5 where the
    range is empty."""
    low, high = limits
    if not high > low:
        return np.full(values.shape, 0.5)
    shares: NDArray[np.float64] = ((values - low) / (high - low)).clip(0, 1)
    return shares
