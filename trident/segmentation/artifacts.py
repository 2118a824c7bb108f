"""Tissue without pen marks, folds, bubbles and blur, which a second network finds within the outlines of a first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon

from trident.segmentation.base import Progress
from trident.segmentation.contours import mask_to_polygons
from trident.slides.base import Slide

if TYPE_CHECKING:
    from trident.segmentation.neural import NeuralSegmenter

_SUBPIXEL_BITS = 4
"""Fraction bits of the coordinates that OpenCV draws with."""


def remove_artifacts(
    slide: Slide, tissue: Sequence[Polygon], remover: NeuralSegmenter, progress: Progress | None = None
) -> list[Polygon]:
    """The tissue less what the network rejects in it. Only tiles that have tissue are looked at.

    What is removed from the inside of an outline becomes a hole of it, by the rules of `mask_to_polygons`.

    Args:
        slide: to look at.
        tissue: outlines in level-0 pixels.
        remover: the artifact model.
        progress: called with (tiles done, their total).

    Returns:
        Outlines in level-0 pixels: those given where there is nothing to remove, none where nothing is left.

    Raises:
        MissingMppError: the slide's resolution is unknown.
        UnreadableSlideError: more tiles than one in a hundred do not decode.
    """
    grid = remover.grid(slide)
    found = grid.empty_mask()
    draw_polygons(found, tissue, grid.level0_per_mask_px)
    clean = found.copy()
    remover.look(slide, grid, grid.with_any(found), clean, progress)
    clean &= found
    if np.array_equal(clean, found):
        return list(tissue)
    return mask_to_polygons(grid.tissue_mask(clean), cut_holes=True, slide_size=slide.dimensions)


def draw_polygons(mask: NDArray[np.bool_], polygons: Sequence[Polygon], level0_per_mask_px: float) -> None:
    """Set the pixels of `mask` within outlines in level-0 pixels, outlines and rims of holes included.

    The counterpart of `mask_to_polygons`: there too, an outline runs through the centres of its border pixels.
    """
    scale = 2**_SUBPIXEL_BITS / level0_per_mask_px
    raster = mask.view(np.uint8)
    for polygon in polygons:
        rings = (polygon.exterior, *polygon.interiors)
        points = [np.round(np.asarray(ring.coords)[:-1, :2] * scale).astype(np.int32) for ring in rings]
        cv2.fillPoly(raster, points, 1, shift=_SUBPIXEL_BITS)
