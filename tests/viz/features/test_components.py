"""Principal components against numpy's singular values, and what has none."""

from __future__ import annotations

import numpy as np
import pytest

from trident.viz.features.components import principal_components, robust_range, scaled


def _features(n_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(dim, dim)) * np.geomspace(10, 0.1, dim)[:, np.newaxis]
    return (random.normal(size=(n_rows, dim)) @ mixing + random.normal(size=dim) * 20).astype(np.float32)


@pytest.mark.parametrize(("n_rows", "dim"), [(500, 20), (20, 500), (30, 30), (20_000, 4), (4, 3), (2, 5)])
def test_against_singular_values(n_rows: int, dim: int) -> None:
    features = _features(n_rows, dim)
    found = principal_components(features, 3)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(axis=0)
    left, singular, loadings = np.linalg.svd(centred, full_matrices=False)
    rank = min(3, n_rows - 1)
    for number in range(rank):
        sign = np.sign(loadings[number][np.abs(loadings[number]).argmax()])
        expected = sign * left[:, number] * singular[number]
        np.testing.assert_allclose(found.scores[:, number], expected, atol=1e-6 * singular[0])
    np.testing.assert_allclose(found.shares[:rank], (singular**2 / (singular**2).sum())[:rank], rtol=1e-6)
    assert not found.scores[:, rank:].any()
    assert not found.shares[rank:].any()


def test_neither_the_order_of_rows_nor_mirroring_changes_a_sign() -> None:
    features = _features(200, 10)
    order = np.random.default_rng(1).permutation(200)
    scores = principal_components(features, 3).scores
    np.testing.assert_allclose(principal_components(features[order], 3).scores, scores[order], atol=1e-8)
    np.testing.assert_allclose(principal_components(-features, 3).scores, -scores, atol=1e-8)


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((0, 5)),
        np.ones((1, 5)),
        np.full((1000, 5), 0.1),
        np.full((3, 500), 1e4 / 3),
        np.zeros((10, 1)),
        np.ones((4, 2)) * 1e-30,
    ],
    ids=str,
)
def test_without_variance(features: np.ndarray) -> None:
    found = principal_components(features.astype(np.float32), min(3, features.shape[1]))
    assert not found.scores.any()
    assert not found.shares.any()


def test_a_single_direction() -> None:
    line = np.outer(np.arange(50), [3.0, 4.0, 0.0, 0.0]).astype(np.float32)
    found = principal_components(line, 3)
    np.testing.assert_allclose(found.scores[:, 0], (np.arange(50) - 24.5) * 5, atol=1e-9)
    np.testing.assert_allclose(found.shares, [1, 0, 0], atol=1e-12)
    assert not found.scores[:, 1:].any()


@pytest.mark.parametrize(
    ("values", "fenced", "expected"),
    [
        ([], False, (0, 0)),
        ([7.0], True, (7, 7)),
        (range(101), False, (2, 98)),
        (range(101), True, (2, 98)),
        ([*range(101), *[1000] * 10], False, (2.2, 1000)),
        ([*range(101), *[1000] * 10], True, (2.2, 82.5 + 1.5 * 55)),
        ([0.0] * 99 + [5.0], True, (0, 5)),
    ],
)
def test_robust_range(values: list[float], fenced: bool, expected: tuple[float, float]) -> None:
    assert robust_range(np.array(values, dtype=np.float64), fenced=fenced) == pytest.approx(expected)


def test_scaled() -> None:
    values = np.array([-5.0, 0, 1, 2, 9])
    np.testing.assert_array_equal(scaled(values, (0, 2)), [0, 0, 0.5, 1, 1])
    np.testing.assert_array_equal(scaled(values, (2, 2)), [0.5] * 5)
