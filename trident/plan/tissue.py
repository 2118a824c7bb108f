"""How many patches a slide has, before its tissue is segmented. Imports OpenCV and shapely: import this module late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon

from trident.patching.grid import PatchGeometry
from trident.patching.tissue import select_on_tissue
from trident.segmentation.base import TissueMask
from trident.segmentation.contours import mask_to_polygons
from trident.segmentation.downscale import read_downscaled
from trident.segmentation.otsu import OtsuSegmenter, otsu_mask

if TYPE_CHECKING:
    from trident.slides.base import Slide
    from trident.stages.coords import GridOptions

_MAX_SIDE_PX = 2048
"""Longest side of the image in which tissue is looked for: smaller than the segmenter's own on slides of over 65,000 px
at 40x, so that a coarser level serves where the file has one. Of 100,000 px, a patch of 512 px is 10 px wide there."""


@dataclass(frozen=True)
class Patches:
    """The patches of one slide.

    Attributes:
        geometry: their grid.
        corners: (N, 2) top-left corners of those on tissue, level-0 px.
    """

    geometry: PatchGeometry
    corners: NDArray[np.int64]


def rough_outlines(slide: Slide, *, cut_holes: bool) -> list[Polygon]:
    """Otsu's tissue on a small image of the slide, read from the coarsest level that is fine enough.

    Raises:
        MissingMppError: the slide's resolution is unknown.
        UnreadableSlideError: it does not decode.
    """
    width_px, height_px = slide.dimensions
    downsample = max(slide.magnification / OtsuSegmenter.target_magnification, max(slide.dimensions) / _MAX_SIDE_PX)
    image = read_downscaled(slide, downsample)
    mask = TissueMask(otsu_mask(image), width_px / image.shape[1], height_px / image.shape[0])
    return mask_to_polygons(mask, cut_holes=cut_holes, slide_size=slide.dimensions)


def patches_on(slide: Slide, grid: GridOptions, outlines: list[Polygon]) -> Patches:
    """The patches that the coordinates stage would keep for these outlines.

    Raises:
        MissingMppError: the slide's resolution is unknown, or coarser than 5x.
        SettingsError: the grid does not fit the slide.
    """
    geometry = grid.geometry(slide)
    corners = geometry.corners()
    kept = select_on_tissue(
        corners,
        geometry.side_level0_px,
        outlines,
        min_proportion=grid.min_tissue_proportion,
        simplify_px=geometry.simplify_level0_px,
    )
    return Patches(geometry, corners[kept])
