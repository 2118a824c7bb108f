from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trident.slides import thumbnail
from trident.slides.thumbnail import fitted_size, shrink_in_bands


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [
        ((1000, 500), (100, 100), (100, 50)),
        ((500, 1000), (100, 100), (50, 100)),
        ((1000, 500), (100, 20), (40, 20)),
        ((30, 20), (100, 100), (30, 20)),
        ((100_000, 10), (100, 100), (100, 1)),
    ],
)
def test_fitted_size(size: tuple[int, int], max_size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(size, max_size) == expected


@pytest.mark.parametrize("band_px", [1, 20_000, 1 << 22])
def test_bands_give_the_picture_that_one_resize_gives(
    band_px: int, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnail, "_BAND_PX", band_px)
    rows_read: list[int] = []

    def read_band(top_px: int, rows: int) -> np.ndarray:
        rows_read.append(rows)
        return scene[top_px : top_px + rows]

    small = shrink_in_bands(read_band, (1000, 830), (90, 75))
    assert small.shape == (75, 90, 3)
    assert sum(rows_read) == 830
    reference = np.asarray(Image.fromarray(scene).resize((90, 75), Image.Resampling.LANCZOS))
    assert np.abs(small.astype(int) - reference).mean() < 2


def test_a_band_too_large_to_hold_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.random.default_rng(1).integers(0, 256, (40, 3001, 3), np.uint8)
    largest = 0

    def read_band(top_px: int, rows: int) -> np.ndarray:
        nonlocal largest
        largest = max(largest, rows)
        return wide[top_px : top_px + rows]

    whole = shrink_in_bands(read_band, (3001, 40), (75, 1))
    assert largest == 40
    largest = 0
    monkeypatch.setattr(thumbnail, "_BAND_PX", 9000)
    monkeypatch.setattr(thumbnail, "_MAX_BAND_PX", 10_000)
    in_parts = shrink_in_bands(read_band, (3001, 40), (75, 1))
    assert largest == 2  # of 3,001 px a row
    assert np.abs(in_parts.astype(int) - whole).max() <= 1
