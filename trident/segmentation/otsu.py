"""Tissue by Otsu's threshold (Otsu 1979) on a 1.25x image of the slide: no model, no weights, a CPU."""

from __future__ import annotations

import time

import cv2
import numpy as np
from numpy.typing import NDArray

from trident.segmentation.base import Progress, Segmenter, TissueMask
from trident.segmentation.downscale import read_downscaled
from trident.slides.base import RGBImage, Slide

# In OpenCV's ranges: saturation and value run from 0 to 255.
_GREY_MAX_SATURATION = 10
_GREY_MIN_VALUE = 70
_BLACK_MAX_VALUE = 85
_WHITE = 255
_MIN_OBJECT_PX = 60
_MAX_HOLE_PX = 5000


class OtsuSegmenter(Segmenter):
    """Two rounds of Otsu's threshold, after grey and black pixels (glass, pen, dust, beyond the slide) are whitened."""

    name = "otsu"
    target_magnification = 1.25

    def segment(self, slide: Slide, progress: Progress | None = None) -> TissueMask:
        """The tissue mask of the whole slide, at 1.25x or, on a slide scanned more coarsely, at level 0.

        Raises:
            MissingMppError: the slide's resolution is unknown.
            UnreadableSlideError: a region does not decode.
        """
        began = time.perf_counter()
        image = read_downscaled(slide, slide.magnification / self.target_magnification, progress)
        slide.timings["wait"] = slide.timings["decode"] = time.perf_counter() - began
        width_px, height_px = slide.dimensions
        return TissueMask(otsu_mask(image), width_px / image.shape[1], height_px / image.shape[0])

    def recipe_settings(self) -> dict[str, str | int | float | bool | None]:
        """Name and magnification; there is nothing else to set."""
        return {"segmenter": self.name, "segmenter_magnification": self.target_magnification}


def otsu_mask(image: RGBImage) -> NDArray[np.bool_]:
    """Tissue in an RGB image at about 1.25x: bool (height, width). No tissue where all grey levels are equal."""
    grey: NDArray[np.uint8] = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    grey[_without_stain(image)] = _WHITE
    found = _without_small_objects(_darker_part(grey))
    grey[~found] = _WHITE
    return _without_small_holes(_darker_part(grey))


def _without_stain(image: RGBImage) -> NDArray[np.bool_]:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    saturation, value = hsv[..., 1], hsv[..., 2]
    grey = (saturation <= _GREY_MAX_SATURATION) & (value >= _GREY_MIN_VALUE)
    return np.asarray(grey | (value <= _BLACK_MAX_VALUE))


def _darker_part(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    if grey.min() == grey.max():
        return np.zeros(grey.shape, np.bool_)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    # OpenCV counts the threshold itself to the darker class.
    return np.asarray(grey <= threshold)


def _without_small_objects(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, stats = _components(mask)
    keep = stats[:, cv2.CC_STAT_AREA] >= _MIN_OBJECT_PX
    keep[0] = False
    return np.asarray(keep[labels])


def _without_small_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Background that reaches the image's border is no hole, however small."""
    labels, stats = _components(~mask)
    right = stats[:, cv2.CC_STAT_LEFT] + stats[:, cv2.CC_STAT_WIDTH]
    bottom = stats[:, cv2.CC_STAT_TOP] + stats[:, cv2.CC_STAT_HEIGHT]
    enclosed = (stats[:, cv2.CC_STAT_LEFT] > 0) & (stats[:, cv2.CC_STAT_TOP] > 0)
    enclosed &= (right < mask.shape[1]) & (bottom < mask.shape[0])
    fill = enclosed & (stats[:, cv2.CC_STAT_AREA] <= _MAX_HOLE_PX)
    fill[0] = False
    return np.asarray(mask | fill[labels])


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """4-connected parts: their labels (0 elsewhere), and OpenCV's statistics, one row a label."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)
