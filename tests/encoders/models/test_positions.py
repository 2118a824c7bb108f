"""trident/encoders/patch/models/positions.py: two ways to resample a position table, against arithmetic by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trident.encoders.patch.models.positions import enlarge_dino, fit_grid
from trident.errors import WeightsError

FILE = Path("/weights/model.bin")


def _table(side: int, width: int = 3) -> torch.Tensor:
    return torch.randn(1, 1 + side * side, width, generator=torch.Generator().manual_seed(1))


def test_a_table_of_the_right_length_is_untouched() -> None:
    table = _table(4)
    assert fit_grid(table, 4, FILE) is table
    assert enlarge_dino(table, 4, 4) is table


def test_fit_grid_halves_by_the_mean_of_neighbours() -> None:
    table = _table(8)
    fitted = fit_grid(table, 4, FILE)
    # A new token's centre lies between four old ones.
    blocks = table[0, 1:].reshape(4, 2, 4, 2, 3).mean(dim=(1, 3))
    assert torch.equal(fitted[:, 0], table[:, 0])
    assert torch.allclose(fitted[0, 1:].reshape(4, 4, 3), blocks, atol=1e-6)


def _cubic(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = -0.75 along the first axis, the border repeated."""
    result = np.zeros((len(centres), *values.shape[1:]))
    for i, centre in enumerate(centres):
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            d = abs(centre - tap)
            near = 1.25 * d**3 - 2.25 * d**2 + 1
            far = -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            weight = near if d <= 1 else far if d < 2 else 0
            result[i] += weight * values[min(max(tap, 0), len(values) - 1)]
    return result


def test_enlarge_dino_is_cubic_with_a_stretch_of_a_tenth() -> None:
    table = _table(14)
    got = enlarge_dino(table, 28, 20)
    rows = (np.arange(28) + 0.5) * 14 / 28.1 - 0.5
    columns = (np.arange(20) + 0.5) * 14 / 20.1 - 0.5
    grid = table[0, 1:].reshape(14, 14, 3).double().numpy()
    expected = _cubic(_cubic(grid, rows).transpose(1, 0, 2), columns).transpose(1, 0, 2)
    assert torch.equal(got[:, 0], table[:, 0])
    assert np.abs(got[0, 1:].reshape(28, 20, 3).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((197, 8), "the shape (197, 8)"),
        ((2, 197, 8), "the shape (2, 197, 8)"),
        ((1, 196, 8), "196 entries"),
        ((1, 1, 8), "1 entries"),
        ((1, 0, 8), "0 entries"),
    ],
)
def test_tables_of_something_else(shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(WeightsError) as caught:
        fit_grid(torch.zeros(shape), 14, FILE)
    assert expected in str(caught.value)
    assert str(FILE) in str(caught.value)
