"""Which patches lie on tissue: vectorised geometry on the tissue outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from trident.errors import SettingsError

_AREA_TOLERANCE = 1e-9
"""Share of a patch's area that rounding in the geometry engine may cost."""
_MAX_PIECE_VERTICES = 64
"""An outline is cut into pieces of about this many vertices before it is intersected with single patches."""
_MAX_CUTS = 16
_BLOCK = 200_000
"""So many squares are held as geometries at a time, at some hundred bytes each."""


def select_on_tissue(
    corners: NDArray[np.int64],
    side_px: int,
    tissue: Sequence[Polygon],
    *,
    min_proportion: float,
    simplify_px: float,
) -> NDArray[np.bool_]:
    """Say for each patch whether it is kept.

    The outline is simplified (topology preserved) and united first, so overlapping polygons are counted once.

    Args:
        corners: top-left corners (x, y) of the patches in level-0 pixels, (N, 2).
        side_px: side of a patch in level-0 pixels.
        tissue: tissue outlines in level-0 pixels.
        min_proportion: 0 keeps every patch that intersects the tissue, where touching counts; above 0, the share of the
            patch's area, from 0 to 1, that must be tissue.
        simplify_px: tolerance of the simplification in level-0 pixels; 0 leaves the outline as it is.

    Returns:
        One bool a patch, (N,). All False without tissue.

    Raises:
        SettingsError: `min_proportion` is not between 0 and 1.
    """
    if not 0.0 <= min_proportion <= 1.0:
        raise SettingsError(f"--min_tissue_proportion is {min_proportion}; it must lie between 0 and 1")
    keep = np.zeros(len(corners), dtype=np.bool_)
    outline = unite(tissue, simplify_px)
    if outline.is_empty or not len(corners):
        return keep
    shapely.prepare(outline)
    pieces = shapely.STRtree(_cut(outline)) if min_proportion > 0 else None
    for start in range(0, len(corners), _BLOCK):
        block = slice(start, start + _BLOCK)
        x, y = corners[block, 0], corners[block, 1]
        squares = shapely.box(x, y, x + side_px, y + side_px)
        kept = np.flatnonzero(shapely.intersects(outline, squares))
        if pieces is not None:
            enough = shapely.contains_properly(outline, squares[kept])
            areas = _tissue_areas(pieces, squares[kept[~enough]])
            enough[~enough] = areas >= (min_proportion - _AREA_TOLERANCE) * side_px**2
            kept = kept[enough]
        keep[start + kept] = True
    return keep


def unite(tissue: Sequence[Polygon], simplify_px: float) -> BaseGeometry:
    """One valid geometry of all polygons, each first simplified by `simplify_px` level-0 pixels, topology preserved."""
    outlines = np.asarray(tissue, dtype=object)
    if simplify_px > 0:
        outlines = shapely.simplify(outlines, simplify_px, preserve_topology=True)
    return shapely.union_all(_polygons_of(shapely.make_valid(outlines)))


def _tissue_areas(pieces: shapely.STRtree, squares: NDArray[np.object_]) -> NDArray[np.float64]:
    """Area of tissue in each square, from the pieces of the outline."""
    square_index, piece_index = pieces.query(squares, predicate="intersects")
    areas = shapely.area(shapely.intersection(squares[square_index], pieces.geometries[piece_index]))
    totals = np.zeros(len(squares), dtype=np.float64)
    np.add.at(totals, square_index, areas)
    return totals


def _cut(outline: BaseGeometry) -> NDArray[np.object_]:
    """Halve polygons across their longer side until they have few vertices; the pieces share no area.

    An intersection costs as much as the whole outline has vertices, however small the square that it is made with.
    """
    done: list[NDArray[np.object_]] = []
    pieces = _polygons_of(np.asarray([outline], dtype=object))
    for _ in range(_MAX_CUTS):
        large = shapely.get_num_coordinates(pieces) > _MAX_PIECE_VERTICES
        done.append(pieces[~large])
        pieces = pieces[large]
        if not len(pieces):
            break
        x0, y0, x1, y1 = shapely.bounds(pieces).T
        wide = x1 - x0 >= y1 - y0
        x_cut, y_cut = np.where(wide, (x0 + x1) / 2, x1), np.where(wide, y1, (y0 + y1) / 2)
        first = shapely.box(x0, y0, x_cut, y_cut)
        second = shapely.box(np.where(wide, x_cut, x0), np.where(wide, y0, y_cut), x1, y1)
        pieces = _polygons_of(shapely.intersection(np.concatenate([pieces, pieces]), np.concatenate([first, second])))
    return np.concatenate([*done, pieces])


def _polygons_of(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """The polygons with an area in any mixture of geometries and collections."""
    parts = shapely.get_parts(shapely.get_parts(geometries))
    return np.asarray(parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > 0)])
