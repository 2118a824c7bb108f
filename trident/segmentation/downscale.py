"""A whole slide as one small image, read in strips so that memory stays bounded whatever the file's pyramid."""

from __future__ import annotations

import math

import cv2
import numpy as np

from trident.patching.grid import best_level
from trident.segmentation.base import Progress
from trident.slides.base import RGBImage, Slide

_STRIP_BYTES = 32 * 2**20
"""Decoded RGB bytes that one strip may hold; readers need a few times as much while they convert it."""


def read_downscaled(
    slide: Slide, downsample: float, progress: Progress | None = None, *, strip_bytes: int = _STRIP_BYTES
) -> RGBImage:
    """The whole slide with one pixel per `downsample` level-0 pixels, by area averaging from the nearest finer level.

    Args:
        slide: to read from.
        downsample: level-0 pixels per pixel of the result; below 1 counts as 1.
        progress: called after each strip.
        strip_bytes: bound of one strip's decoded bytes.

    Returns:
        uint8 (height, width, 3), at least one pixel.

    Raises:
        UnreadableSlideError: a strip does not decode.
    """
    downsample = max(1.0, downsample)
    width_px, height_px = (max(1, round(side / downsample)) for side in slide.dimensions)
    level = best_level(downsample, slide.level_downsamples)
    level_width_px, level_height_px = slide.level_dimensions[level]
    level0_per_row = slide.dimensions[1] / level_height_px
    rows_per_strip = max(1, strip_bytes * height_px // (level_width_px * level_height_px * 3))
    n_strips = math.ceil(height_px / rows_per_strip)

    image = np.empty((height_px, width_px, 3), np.uint8)
    for strip in range(n_strips):
        first, last = strip * rows_per_strip, min(height_px, (strip + 1) * rows_per_strip)
        # A strip begins and ends on whole rows of the level, at most half a row from where it should.
        top = min(level_height_px - 1, round(first * level_height_px / height_px))
        bottom = max(top + 1, round(last * level_height_px / height_px))
        pixels = slide.read_region((0, round(top * level0_per_row)), level, (level_width_px, bottom - top))
        image[first:last] = cv2.resize(pixels, (width_px, last - first), interpolation=cv2.INTER_AREA)
        if progress is not None:
            progress(strip + 1, n_strips)
    return image
