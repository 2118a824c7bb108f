"""Shrinking an image that is too large to hold: band by band, then once more with a good filter."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trident.slides.base import RGBImage

_BAND_PX = 1 << 22
_MAX_BAND_PX = 8 * _BAND_PX
"""A band of more pixels is read in parts: `factor` rows of a very wide image fill the memory."""


def fitted_size(size: tuple[int, int], max_size: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) with the aspect of `size` that fits into `max_size`; never larger than `size`."""
    scale = min(max_size[0] / size[0], max_size[1] / size[1], 1.0)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrink_in_bands(
    read_band: Callable[[int, int], RGBImage], size: tuple[int, int], target: tuple[int, int]
) -> RGBImage:
    """Shrink an image that is read in horizontal bands.

    Each band is averaged down to about twice the target first, so memory is that of one band and of that small image.

    Args:
        read_band: (top row, number of rows) -> those rows, full width, (rows, width, 3).
        size: (width, height) of the image.
        target: (width, height) of the result, not larger than `size`.
    """
    width_px, height_px = size
    factor = max(1, int(min(width_px / target[0], height_px / target[1]) / 2))
    rows_per_band = factor * max(1, _BAND_PX // (width_px * factor))
    bands = []
    for top_px in range(0, height_px, rows_per_band):
        rows = min(rows_per_band, height_px - top_px)
        if rows * width_px <= _MAX_BAND_PX:
            bands.append(_averaged(read_band(top_px, rows), factor))
        else:
            bands.append(_averaged_in_parts(read_band, top_px, rows, width_px, factor))
    # The box leaves out what the last row and column of averages have beyond the image.
    box = (0.0, 0.0, width_px / factor, height_px / factor)
    return np.array(Image.fromarray(np.concatenate(bands)).resize(target, Image.Resampling.LANCZOS, box=box))


def _averaged(band: RGBImage, factor: int) -> RGBImage:
    """Means of squares of `factor` px, the last ones filled up with the edge."""
    height_px, width_px = band.shape[:2]
    below, right = -height_px % factor, -width_px % factor
    if below or right:
        band = np.asarray(cv2.copyMakeBorder(band, 0, below, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8)
    size = (band.shape[1] // factor, band.shape[0] // factor)
    return np.asarray(cv2.resize(band, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _averaged_in_parts(
    read_band: Callable[[int, int], RGBImage], top_px: int, rows: int, width_px: int, factor: int
) -> RGBImage:
    """One row of `_averaged`, from parts of a band of at most `factor` rows."""
    rows_per_part = max(1, _BAND_PX // width_px)
    total: NDArray[np.float64] = np.zeros(1)
    for first in range(top_px, top_px + rows, rows_per_part):
        part = read_band(first, min(rows_per_part, top_px + rows - first))
        row = cv2.reduce(part, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)
        right = -width_px % factor
        wide = cv2.copyMakeBorder(row, 0, 0, 0, right, cv2.BORDER_REPLICATE)
        narrow = cv2.resize(wide, (wide.shape[1] // factor, 1), interpolation=cv2.INTER_AREA)
        total = total + np.asarray(narrow, dtype=np.float64)
    return np.asarray(np.round(total / rows), dtype=np.uint8)
