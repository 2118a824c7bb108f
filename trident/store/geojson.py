"""Tissue outlines as GeoJSON in level-0 pixels: written for QuPath, and read back as QuPath may have left them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import shapely
from shapely import make_valid
from shapely.errors import GEOSException
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from trident.errors import StoreError
from trident.store.atomic import store_error, write_bytes
from trident.store.recipes import RECIPE_KEY, Recipe

Ring: TypeAlias = "list[tuple[float, float]]"

MAX_COORDINATE_PX = 1e8
"""No slide is wider; a larger number is damage or another coordinate system."""

MAX_FILE_BYTES = 1 << 30

MAX_CROSSINGS = 2000
"""How often the edges of an outline may cross. Taking it apart costs half a second then, and four times that for twice
as many crossings; an outline that somebody drew crosses itself a few times."""

_SAMPLED_EDGES = (20, 500)
"""A few edges first, then more."""

_HEAD = '{"type": "FeatureCollection", '
_RECIPE_HEAD = f'{_HEAD}"{RECIPE_KEY}": '
_RECIPE_SEARCH_BYTES = 1 << 16
_IGNORED = ("Point", "MultiPoint", "LineString", "MultiLineString")
_FIX = "export it from QuPath again, or use --overwrite to have it made anew"


def write_tissue(path: Path, polygons: Sequence[Polygon], recipe: Recipe | None) -> None:
    """Write tissue outlines; coordinates are kept to the last digit.

    Each Feature has the properties `tissue_id` (0, 1, …) and those by which QuPath shows it as a tissue annotation.

    Args:
        path: final name.
        polygons: outlines in level-0 px; none is a valid slide without tissue. Empty polygons are left out.
        recipe: what the outlines were made with; becomes the member `trident_recipe` of the collection.

    Raises:
        StoreError: a coordinate is not finite, or the file cannot be written.
    """
    tissue = [polygon for polygon in polygons if not polygon.is_empty]
    try:
        features = ",\n".join(json.dumps(_feature(i, polygon), allow_nan=False) for i, polygon in enumerate(tissue))
    except ValueError as error:
        raise StoreError(f"{path}: a tissue outline has a coordinate that is not a number; please report it") from error
    # The recipe stands first, so that it can be read without parsing the outlines.
    start = _HEAD if recipe is None else f"{_RECIPE_HEAD}{recipe.to_json()}, "
    write_bytes(path, f'{start}"features": [\n{features}\n]}}\n'.encode("ascii"))


def read_tissue(path: Path) -> list[Polygon]:
    """Read tissue outlines, from us, TRIDENT or QuPath, as valid polygons in level-0 px.

    A FeatureCollection, a list of Features, one Feature or a bare geometry will do; MultiPolygons and collections are
    taken apart, crossing outlines are made valid, and points and lines are left out.

    Raises:
        StoreError: missing, not GeoJSON, or an outline that cannot be one.
    """
    polygons: list[Polygon] = []
    for rings in _rings_in(_load(path), path):
        polygons.extend(_valid_polygons(rings, path))
    return polygons


def read_recipe(path: Path) -> Recipe | None:
    """The recipe in a GeoJSON file; None where another tool wrote it. Fast for our own files, whatever their size.

    Raises:
        StoreError: missing, damaged or cut off.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_RECIPE_SEARCH_BYTES).decode("utf-8", "replace")
            file.seek(max(0, path.stat().st_size - 16))
            tail = file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    if head.startswith(_RECIPE_HEAD) and tail.rstrip().endswith(b"]}"):
        try:
            value, _ = json.JSONDecoder().raw_decode(head, len(_RECIPE_HEAD))
        except (ValueError, RecursionError):  # longer than the part that was read, or damaged: the whole file tells
            value = None
        if value is not None:
            return Recipe.from_dict(value, path)
    content = _load(path)
    found = content.get(RECIPE_KEY) if isinstance(content, Mapping) else None
    return None if found is None else Recipe.from_dict(found, path)


def _feature(tissue_id: int, polygon: Polygon) -> dict[str, Any]:
    rings = [polygon.exterior, *polygon.interiors]
    return {
        "type": "Feature",
        "properties": {
            "tissue_id": tissue_id,
            "objectType": "annotation",
            "classification": {"name": "Tissue", "color": [0, 160, 0]},
        },
        "geometry": {"type": "Polygon", "coordinates": [[[x, y] for x, y, *_ in ring.coords] for ring in rings]},
    }


def _load(path: Path) -> object:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise StoreError(
                f"{path}: {size / 2**30:.1f} GiB is too large for tissue outlines; simplify them in QuPath"
            )
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, parse_constant=_not_a_number)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        what = "is empty" if path.stat().st_size == 0 else f"is not GeoJSON ({str(error)[:100]})"
        raise StoreError(f"{path}: this file {what}; {_FIX}") from error


def _not_a_number(text: str) -> float:
    raise ValueError(f"{text} is not a coordinate")


def _rings_in(value: object, path: Path, depth: int = 0) -> Iterator[list[Ring]]:
    """Every polygon in a GeoJSON value, as [outer ring, holes…]."""
    if depth > 16:
        raise _bad(path, "its geometries are nested too deeply")
    if isinstance(value, list):
        for item in value:
            yield from _rings_in(item, path, depth + 1)
        return
    if not isinstance(value, Mapping):
        raise _bad(path, f"a Feature or geometry is due where {_short(value)} stands")
    kind = value.get("type")
    if kind == "FeatureCollection":
        yield from _rings_in(_member(value, "features", path), path, depth + 1)
    elif kind == "Feature":
        if value.get("geometry") is not None:
            yield from _rings_in(value["geometry"], path, depth + 1)
    elif kind == "GeometryCollection":
        yield from _rings_in(_member(value, "geometries", path), path, depth + 1)
    elif kind == "MultiPolygon":
        for polygon in _member(value, "coordinates", path):
            yield from _polygon_rings(polygon, path)
    elif kind == "Polygon":
        yield from _polygon_rings(_member(value, "coordinates", path), path)
    elif kind not in _IGNORED:
        raise _bad(path, f"its 'type' {_short(kind)} is not one of GeoJSON's")


def _member(value: Mapping[str, object], key: str, path: Path) -> list[object]:
    found = value.get(key)
    if not isinstance(found, list):
        raise _bad(path, f"the {key!r} of a {value['type']} must be a list, not {_short(found)}")
    return found


def _polygon_rings(rings: object, path: Path) -> Iterator[list[Ring]]:
    if not isinstance(rings, list):
        raise _bad(path, f"a polygon is a list of rings, not {_short(rings)}")
    if rings:  # GeoJSON's empty polygon has none
        yield [_ring(ring, path) for ring in rings]


def _ring(points: object, path: Path) -> Ring:
    if not isinstance(points, list):
        raise _bad(path, f"a ring is a list of points, not {_short(points)}")
    ring = [_point(point, path) for point in points]
    if len(set(ring)) < 3:
        raise _bad(path, f"an outline has only {len(set(ring))} different points")
    return ring


def _point(point: object, path: Path) -> tuple[float, float]:
    if not isinstance(point, list) or len(point) < 2:
        raise _bad(path, f"a point is [x, y], not {_short(point)}")
    x, y = point[0], point[1]
    for number in (x, y):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _bad(path, f"a coordinate is a number, not {_short(number)}")
        if not (abs(number) <= MAX_COORDINATE_PX and math.isfinite(number)):
            raise _bad(path, f"the coordinate {_short(number)} is not a pixel of any slide")
    return float(x), float(y)


def _valid_polygons(rings: list[Ring], path: Path) -> list[Polygon]:
    try:
        polygon = Polygon(rings[0], rings[1:])
        if polygon.is_valid:
            return list(_polygons_of(polygon))
        crossings = _estimated_crossings(rings)
        if crossings > MAX_CROSSINGS:
            raise _bad(path, f"an outline crosses itself about {crossings:,} times, which no outline of tissue does")
        return list(_polygons_of(make_valid(polygon)))
    except (GEOSException, ValueError) as error:
        raise _bad(path, f"an outline cannot be made valid ({error})") from error


def _estimated_crossings(rings: list[Ring]) -> int:
    """How often the edges of these rings cross; where there are many edges, about, from a sample of them."""
    edges = shapely.linestrings(np.concatenate([np.stack([ring, [*ring[1:], ring[0]]], axis=1) for ring in rings]))
    tree, crossings = shapely.STRtree(edges), 0
    for most in _SAMPLED_EDGES:
        n_sampled = min(len(edges), most)
        sample = edges[np.linspace(0, len(edges) - 1, n_sampled).astype(int)]
        crossings = tree.query(sample, predicate="crosses").shape[1] * len(edges) // (2 * n_sampled)
        if crossings > 100 * MAX_CROSSINGS:  # clear enough: where all edges cross, a large sample takes long
            break
    return crossings


def _polygons_of(geometry: BaseGeometry) -> Iterator[Polygon]:
    if isinstance(geometry, Polygon):
        if geometry.area > 0:
            yield geometry
    else:
        for part in getattr(geometry, "geoms", ()):
            yield from _polygons_of(part)


def _unreadable(path: Path, error: OSError) -> StoreError:
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{path}: the tissue outlines are missing; run the segmentation (--task seg) first")
    return store_error(path, error, "read")


def _bad(path: Path, what: str) -> StoreError:
    return StoreError(f"{path}: {what}; {_FIX}")


def _short(value: object) -> str:
    try:
        return f"{value!r:.60}"
    except ValueError:  # an integer with more digits than Python prints
        return "a huge number"
