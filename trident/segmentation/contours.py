"""From a tissue mask to polygons in level-0 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from trident.segmentation.base import TissueMask

_ROWS = 2000
"""The mask is scaled to so many rows; the areas below are in pixels of that raster."""
_MAX_COLUMNS = 16 * _ROWS
"""A strip of glass wider than this has fewer rows instead, so that its raster stays small."""
_MIN_NET_AREA_PX = 1000
_MIN_HOLE_AREA_PX = 4000
_MAX_HOLES = 20

_Contour = NDArray[Any]
"""OpenCV's int32 (N, 1, 2)."""
_NEXT, _FIRST_CHILD, _PARENT = 0, 2, 3
"""Columns of OpenCV's hierarchy."""


def mask_to_polygons(mask: TissueMask, *, cut_holes: bool, slide_size: tuple[int, int]) -> list[Polygon]:
    """Outlines of the tissue, valid and inside the slide, from the top of the slide to its bottom.

    The mask is scaled to 2,000 rows (bilinear where that enlarges, area where it shrinks, then cut at one half). An
    outline runs through the centres of its border pixels, as `cv2.findContours` gives it. It is scaled to level 0 by
    multiplication alone, so pixel (0, 0) lands on (0, 0).

    Without `cut_holes` an outline is filled: what lies within it, islands in its holes included, belongs to it. With
    `cut_holes` it keeps its 20 largest holes of over 4,000 px each and the others are filled; an island in a kept
    hole is an outline of its own. Outlines whose net area, which is the outer contour's less its kept holes', is not
    over 1,000 px are dropped.

    Args:
        mask: of the whole slide.
        cut_holes: cut holes out of the outlines (`--remove_holes`).
        slide_size: (width, height) of level 0.

    Returns:
        Polygons in level-0 pixels. Where an outline touches itself, making it valid splits it into several polygons.
    """
    raster = _scale_to_rows(mask.mask)
    scale_x = mask.downsample_x * mask.mask.shape[1] / raster.shape[1]
    scale_y = mask.downsample_y * mask.mask.shape[0] / raster.shape[0]
    outlines = np.asarray(
        [_to_polygon(rings, scale_x, scale_y) for rings in _outlines(raster, cut_holes)], dtype=object
    )
    clipped = shapely.intersection(shapely.make_valid(outlines), shapely.box(0, 0, *slide_size))
    parts = shapely.get_parts(shapely.get_parts(clipped))
    polygons: list[Polygon] = [part for part in parts if isinstance(part, Polygon) and part.area > 0]
    return sorted(polygons, key=lambda polygon: (polygon.bounds[1], polygon.bounds[0]))


def _scale_to_rows(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """0 or 255, `_ROWS` rows high."""
    height, width = mask.shape
    scale = min(_ROWS / height, _MAX_COLUMNS / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    scaled = cv2.resize(mask.view(np.uint8) * np.uint8(255), size, interpolation=interpolation)
    return np.where(scaled > 127, np.uint8(255), np.uint8(0))


def _outlines(raster: NDArray[np.uint8], cut_holes: bool) -> list[list[_Contour]]:
    """Rings of each outline that is kept: the outer contour, then its kept holes."""
    # The whole tree rather than two levels of it: what lies within a filled hole is found by following it down.
    contours, hierarchy = cv2.findContours(raster, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    tree = hierarchy[0]
    outlines: list[list[_Contour]] = []
    pending = [index for index in range(len(contours)) if tree[index][_PARENT] < 0]
    while pending:
        outer = pending.pop()
        holes = _kept_holes(contours, _children(tree, outer)) if cut_holes else []
        net_area_px = cv2.contourArea(contours[outer]) - sum(cv2.contourArea(contours[hole]) for hole in holes)
        if net_area_px > _MIN_NET_AREA_PX:
            outlines.append([contours[index] for index in (outer, *holes)])
        for hole in holes:
            pending.extend(_children(tree, hole))
    return outlines


def _kept_holes(contours: Sequence[_Contour], holes: list[int]) -> list[int]:
    areas_px = {hole: cv2.contourArea(contours[hole]) for hole in holes}
    large = [hole for hole in holes if areas_px[hole] > _MIN_HOLE_AREA_PX]
    return sorted(large, key=lambda hole: areas_px[hole], reverse=True)[:_MAX_HOLES]


def _children(tree: NDArray[Any], index: int) -> list[int]:
    children = []
    child = int(tree[index][_FIRST_CHILD])
    while child >= 0:
        children.append(child)
        child = int(tree[child][_NEXT])
    return children


def _to_polygon(rings: list[_Contour], scale_x: float, scale_y: float) -> Polygon:
    outer, *holes = [ring.reshape(-1, 2) * np.array([scale_x, scale_y]) for ring in rings]
    return Polygon(outer, holes)
