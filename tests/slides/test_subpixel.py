"""trident/slides/subpixel.py: against the same written out in numpy; against OpenSlide in test_tile_regions.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trident.slides import subpixel
from trident.slides.subpixel import Shift, shifted

SHIFTS = [(0.0, 0.5), (0.25, 0.0), (0.375, 0.8125), (0.999, 0.001)]


def plainly(pixels: np.ndarray, right: float, down: float) -> np.ndarray:
    whole = pixels.astype(np.float64)
    rows = whole[:, :-1] * (1 - right) + whole[:, 1:] * right
    return np.minimum(255, np.floor((rows[:-1] * (1 - down) + rows[1:] * down) * 256 / 255)).astype(int)


def between(pixels: np.ndarray, right: float, down: float) -> np.ndarray:
    out = np.empty((pixels.shape[0] - 1, pixels.shape[1] - 1, 3), np.uint8)
    shifted(pixels, Shift(right, down, (), ()), out)
    return out.astype(int)


@pytest.mark.parametrize(("right", "down"), SHIFTS)
def test_several_threads_and_sizes_at_once(right: float, down: float) -> None:
    chance = np.random.default_rng(3)
    sizes = [(5, 5), (65, 65), (9, 33), (65, 65), (130, 2)] * 8
    images = [chance.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: between(image, right, down), images))
    for image, pixels in zip(images, found, strict=True):
        difference = np.abs(pixels - plainly(image, right, down))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01  # where a whole number is missed by the last bit of a float


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize(("right", "down"), SHIFTS)
def test_one_colour_stays_one_but_for_what_is_rounded_down(value: int, right: float, down: float) -> None:
    image = np.full((20, 20, 3), value, np.uint8)
    out = np.empty((19, 19, 3), np.uint8)
    shifted(image, Shift(right, down, (3, 11), (7,)), out)
    lost = value - out.astype(int)
    assert lost.min() >= -1
    assert lost.max() <= 4, "four parts, at most, each a grey level"
    assert np.abs(np.delete(np.delete(lost, 7, axis=0), (3, 11), axis=1)).max() <= 1


def test_nothing_is_kept_of_a_large_region() -> None:
    between(np.zeros((1030, 1030, 3), np.uint8), 0.5, 0.5)
    assert subpixel._own.room is None
    between(np.zeros((9, 9, 3), np.uint8), 0.5, 0.5)
    assert subpixel._own.room is not None
