"""Tissue outlines: ours, TRIDENT's, QuPath's, and nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shapely import box
from shapely.geometry import Polygon

from trident.errors import StoreError
from trident.store import geojson
from trident.store.geojson import read_recipe, read_tissue, write_tissue
from trident.store.recipes import Recipe

RECIPE = Recipe("segmentation", {"segmenter": "otsu"}, {}, {"host": "h"})
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
FAR = [[20, 20], [30, 20], [30, 30], [20, 20]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE]}


def feature(geometry: object) -> dict[str, object]:
    return {"type": "Feature", "geometry": geometry, "properties": {}}


def put(folder: Path, content: object) -> Path:
    path = folder / "a.geojson"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_outlines_come_back_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "contours_geojson" / "a.geojson"
    polygons = [
        Polygon(SQUARE, [HOLE]),
        Polygon([(1 / 3, 100_000.123456789), (50, 100_001), (40, 100_050.7)]),
        Polygon(),
        box(200, 200, 300, 300),
    ]
    write_tissue(path, polygons, RECIPE)
    found = read_tissue(path)
    kept = [polygons[0], polygons[1], polygons[3]]
    assert [each.wkb for each in found] == [each.wkb for each in kept]
    assert [each.name for each in path.parent.iterdir()] == ["a.geojson"]


def test_the_file_is_what_qupath_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    write_tissue(path, [Polygon(SQUARE, [HOLE]), box(20, 20, 30, 30)], RECIPE)
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    assert [each["properties"]["tissue_id"] for each in content["features"]] == [0, 1]
    assert all(each["type"] == "Feature" for each in content["features"])
    assert all(each["properties"]["objectType"] == "annotation" for each in content["features"])
    assert content["features"][0]["geometry"] == {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
    assert content["trident_recipe"] == RECIPE.to_dict()


@pytest.mark.parametrize("recipe", [None, RECIPE])
def test_a_slide_without_tissue(tmp_path: Path, recipe: Recipe | None) -> None:
    path = tmp_path / "a.geojson"
    write_tissue(path, [], recipe)
    assert json.loads(path.read_text())["features"] == []
    assert read_tissue(path) == []
    assert read_recipe(path) == recipe


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_an_outline_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a number"):
        write_tissue(tmp_path / "a.geojson", [Polygon([(0, 0), (1, float("nan")), (2, 2)])], None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "areas"),
    [
        ({"type": "FeatureCollection", "features": [feature(POLYGON)]}, [100]),
        ([feature(POLYGON), feature({"type": "Polygon", "coordinates": [FAR]})], [100, 50]),
        (feature({"type": "Polygon", "coordinates": [SQUARE, HOLE]}), [96]),
        (POLYGON, [100]),
        (feature({"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [FAR]]}), [96, 50]),
        (
            feature({"type": "GeometryCollection", "geometries": [POLYGON, {"type": "Point", "coordinates": [1, 2]}]}),
            [100],
        ),
        (feature({"type": "Polygon", "coordinates": [SQUARE[:-1]]}), [100]),
        (feature({"type": "Polygon", "coordinates": [[[x, y, 7] for x, y in SQUARE]]}), [100]),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}), [25, 25]),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [5, 5], [0, 0]]]}), []),
        (feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}), []),
        (feature(None), []),
        (feature({"type": "Polygon", "coordinates": []}), []),
        ({"type": "FeatureCollection", "features": []}, []),
        ([], []),
        (b"\xef\xbb\xbf" + json.dumps(POLYGON).encode(), [100]),
    ],
)
def test_what_qupath_and_others_write(tmp_path: Path, content: object, areas: list[float]) -> None:
    path = put(tmp_path, content)
    found = read_tissue(path)
    assert [each.area for each in found] == pytest.approx(areas)
    assert all(isinstance(each, Polygon) and each.is_valid for each in found)
    assert read_recipe(path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this file is empty"),
        (b"not json", "is not GeoJSON"),
        (b'{"type": "FeatureCollection", "features": [', "is not GeoJSON"),
        (b"\xff\xfe\x00", "is not GeoJSON"),
        (b"[" * 100_000, "is not GeoJSON"),
        (b"[" * 100 + b"]" * 100, "nested too deeply"),
        (json.dumps(POLYGON).replace("10", "NaN").encode(), "NaN is not a coordinate"),
        (json.dumps(POLYGON).replace("10", "-Infinity").encode(), "-Infinity is not a coordinate"),
        (json.dumps(POLYGON).replace("10", "1e999").encode(), "not a pixel of any slide"),
        (json.dumps(POLYGON).replace("10", "1" + "0" * 400).encode(), "not a pixel of any slide"),
        (json.dumps(POLYGON).replace("10", "1" + "0" * 5000).encode(), "is not GeoJSON"),
        (json.dumps(POLYGON).replace("10", "1e12").encode(), "not a pixel of any slide"),
        (json.dumps(POLYGON).replace("10", '"10"').encode(), "a coordinate is a number, not '10'"),
        (json.dumps(POLYGON).replace("10", "true").encode(), "a coordinate is a number, not True"),
        (json.dumps(POLYGON).replace("10", "null").encode(), "a coordinate is a number, not None"),
        (5, "a Feature or geometry is due where 5 stands"),
        ("text", "a Feature or geometry is due"),
        ({}, "'type' None"),
        ({"type": "Circle"}, "'type' 'Circle'"),
        ({"type": ["x"]}, "'type' ['x']"),
        ({"type": "FeatureCollection"}, "the 'features' of a FeatureCollection must be a list"),
        ({"type": "GeometryCollection", "geometries": 3}, "must be a list, not 3"),
        (feature({"type": "Polygon", "coordinates": 3}), "must be a list, not 3"),
        (feature({"type": "Polygon", "coordinates": [3]}), "a ring is a list of points"),
        (feature({"type": "Polygon", "coordinates": [[3]]}), "a point is [x, y], not 3"),
        (feature({"type": "Polygon", "coordinates": [[[3]]]}), "a point is [x, y], not [3]"),
        (feature({"type": "MultiPolygon", "coordinates": [3]}), "a polygon is a list of rings"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}), "only 2 different points"),
        (feature({"type": "Polygon", "coordinates": [[]]}), "only 0 different points"),
        (feature({"type": "Polygon", "coordinates": [SQUARE, [[1, 1]]]}), "only 1 different points"),
    ],
)
def test_nonsense_is_one_line(tmp_path: Path, content: object, message: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(StoreError) as caught:
        read_tissue(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "QuPath" in text
    assert "\n" not in text
    assert len(text) < len(str(path)) + 300


@pytest.mark.parametrize("reader", [read_tissue, read_recipe])
def test_no_file(tmp_path: Path, reader: Any) -> None:
    with pytest.raises(StoreError, match="run the segmentation"):
        reader(tmp_path / "a.geojson")
    with pytest.raises(StoreError, match="cannot be read"):
        reader(tmp_path)


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "MAX_FILE_BYTES", 10)
    with pytest.raises(StoreError, match="too large"):
        read_tissue(put(tmp_path, POLYGON))


def test_the_recipe_is_found_wherever_it_stands(tmp_path: Path) -> None:
    ours = tmp_path / "ours.geojson"
    write_tissue(ours, [box(0, 0, 5, 5)], RECIPE)
    content = json.loads(ours.read_text())
    last = {key: content[key] for key in ("type", "features", "trident_recipe")}
    assert read_recipe(ours) == RECIPE
    assert read_recipe(put(tmp_path, last)) == RECIPE
    long = Recipe("segmentation", {"note": "x" * 100_000})
    write_tissue(ours, [box(0, 0, 5, 5)], long)
    assert read_recipe(ours) == long


def test_the_recipe_of_ours_is_read_without_the_outlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.geojson"
    write_tissue(path, [box(0, 0, 5, 5)], RECIPE)

    def parse(*_: object) -> object:
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(geojson, "_load", parse)
    assert read_recipe(path) == RECIPE


@pytest.mark.parametrize("cut", [20, 60, 200, 400])
def test_a_recipe_in_a_file_that_was_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.geojson"
    write_tissue(path, [box(0, 0, 5, 5)], RECIPE)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StoreError, match="is not GeoJSON"):
        read_recipe(path)


@pytest.mark.parametrize("recipe", [[], "x", {"recipe_version": 5}])
def test_a_damaged_recipe(tmp_path: Path, recipe: object) -> None:
    path = put(tmp_path, {"type": "FeatureCollection", "trident_recipe": recipe, "features": []})
    with pytest.raises(StoreError, match="recipe in this file cannot be used"):
        read_recipe(path)
