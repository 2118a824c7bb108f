"""HDF5 files and outlines as somebody hostile might have left them."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trident.errors import StoreError, TridentError
from trident.store import geojson, h5, h5_read
from trident.store.lock_holder import read_lock
from trident.store.recipes import Recipe

OneLine = Callable[[pytest.ExceptionInfo[TridentError], Path], str]

DEEP = "[" * 100_000
LONG_NUMBER = "9" * 5000
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]


# HDF5


def with_link(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["coords"] = np.zeros((3, 2), np.int64)
    file["coords"] = h5py.ExternalLink("other.h5", "coords")


def with_raw_data_elsewhere(file: h5py.File) -> None:
    other = Path(file.filename).with_name("secret")
    other.write_bytes(b"\0" * 1600)
    file.create_dataset("coords", shape=(100, 2), dtype="i8", external=[(str(other), 0, 1600)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(3, 2), dtype="i8")
    layout[:] = h5py.VirtualSource("other.h5", "coords", shape=(3, 2))
    file.create_virtual_dataset("coords", layout)


def in_a_loop(file: h5py.File) -> None:
    file["coords"] = h5py.SoftLink("/a")
    file["a"] = h5py.SoftLink("/coords")


def claiming(**chunks: object) -> Callable[[h5py.File], None]:
    return lambda file: file.create_dataset("coords", shape=(10**12, 2), dtype="i8", **chunks)


def holding(values: object) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("coords", values)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (claiming(chunks=(1024, 2)), "claim 16000000000000 bytes"),
        (claiming(chunks=(1 << 20, 2), compression="gzip"), "claim 16000000000000 bytes"),
        (with_link, "lie in another file"),
        (with_raw_data_elsewhere, "lie in another file"),
        (virtual, "lie in another file"),
        (in_a_loop, "damaged"),
        (lambda file: file.create_group("coords"), "no dataset 'coords'"),
        (holding(5), r"shape \(N, 2\)"),
        (holding(h5py.Empty("i8")), r"shape \(N, 2\)"),
        (holding(np.full((3, 2), np.nan)), "not two whole numbers"),
        (holding(np.full((3, 2), np.inf)), "not two whole numbers"),
        (holding(np.full((3, 2), 0.5)), "not two whole numbers"),
        (holding(np.full((3, 2), 2**64 - 1, np.uint64)), "larger than any slide"),
        (holding(np.full((3, 2), -(2**62))), "larger than any slide"),
        (holding(np.zeros((3, 2), np.complex128)), "whole numbers"),
        (holding(np.zeros((3, 2), [("x", "i8")])), "whole numbers"),
        (holding(np.array([[b"1", b"2"]])), "whole numbers"),
        (lambda file: file.create_dataset("coords", shape=(3, 2), dtype=h5py.vlen_dtype("i8")), "whole numbers"),
        (lambda file: file.create_dataset("coords", shape=(3, 2), dtype=h5py.ref_dtype), "whole numbers"),
    ],
)
def test_hostile_coordinates(tmp_path: Path, make: Callable[[h5py.File], None], words: str, one_line: OneLine) -> None:
    path = tmp_path / "a_patches.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(StoreError, match=words) as error:
        h5_read.read_coords(path)
    one_line(error, path)


@pytest.mark.parametrize("text", ["[" * 60_000, "5", '{"recipe_version": 99}', b"\xff\xfe", LONG_NUMBER])
def test_hostile_recipes(tmp_path: Path, text: str | bytes, one_line: OneLine) -> None:
    path = tmp_path / "a_patches.h5"
    with h5py.File(path, "w") as file:
        file.attrs["trident_recipe"] = text
    with pytest.raises(StoreError, match="recipe in this file cannot be used") as error:
        h5_read.read_recipe(path)
    one_line(error, path)


def test_damaged_hdf5_is_read_or_refused(tmp_path: Path) -> None:
    """In children: where HDF5 itself crashes, this says for which damage."""
    sound, damaged = tmp_path / "sound.h5", tmp_path / "damaged.h5"
    coords = np.arange(2000, dtype=np.int64).reshape(-1, 2)
    recipe = Recipe("coords", {}, {}, {})
    h5.write_coords(sound, coords, {"patch_size": 256, "name": "a"}, recipe)
    data = sound.read_bytes()
    ends = {"read": 0, "refused": 0}
    for seed in range(250):
        random, mutant = Random(seed), bytearray(data)
        for _ in range(random.choice((1, 4, 32))):
            mutant[random.randrange(random.choice((len(mutant), 3000)))] ^= 1 << random.randrange(8)
        damaged.write_bytes(mutant[: random.randrange(1, len(mutant))] if seed % 5 == 0 else mutant)
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
            try:
                h5_read.read_coords(damaged)
                h5_read.read_header(damaged)
                os._exit(0)
            except StoreError as error:
                os._exit(1 if "\n" not in str(error) else 2)
            except BaseException:  # noqa: BLE001 - whatever it is, the exit code tells
                os._exit(3)
        _, status = os.waitpid(child, 0)
        assert status in (0, 1 << 8), f"seed {seed}: status {status}"
        ends["refused" if status else "read"] += 1
    assert min(ends.values()) > 20


# GeoJSON


def polygon(*rings: object) -> str:
    return json.dumps({"type": "Polygon", "coordinates": rings})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEEP, "recursion"),
        (DEEP + "]" * 100_000, "recursion"),
        ('{"type":"GeometryCollection","geometries":[' * 20 + "]}" * 20, "nested too deeply"),
        ('{"type":"Polygon","coordinates":[[[NaN,0],[1,1],[2,0]]]}', "not a coordinate"),
        ('{"type":"Polygon","coordinates":[[[1e999,0],[1,1],[2,0]]]}', "not a pixel"),
        (polygon([["?", 0], [1, 1], [2, 0]]).replace('"?"', LONG_NUMBER), "not GeoJSON"),
        (polygon([[1e9, 0], [0, 1], [1, 1]]), "not a pixel"),
        (polygon([["0", "0"], ["1", "1"], ["2", "0"]]), "a coordinate is a number"),
        (polygon([[True, 0], [1, 1], [2, 0]]), "a coordinate is a number"),
        (polygon([[0], [1], [2]]), "a point is"),
        (polygon([[0, 0], [1, 1]]), "only 2 different points"),
        ('{"type":{}}', "is not one of GeoJSON's"),
        ('{"type":"a\\nb"}', "is not one of GeoJSON's"),
        ('{"type":"FeatureCollection","features":{}}', "must be a list"),
        ("<html>", "not GeoJSON"),
        ("", "is empty"),
        ("null", "a Feature or geometry is due"),
        (polygon([[(i * 7919) % 10007, (i * 104729) % 10009] for i in range(3000)]), "crosses itself about"),
    ],
)
def test_hostile_outlines(tmp_path: Path, text: str, words: str, one_line: OneLine) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(StoreError, match=words) as error:
        geojson.read_tissue(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("rings", "area"),
    [
        ([[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]], 50),  # a bow tie
        ([SQUARE, [[20, 20], [80, 20], [80, 80], [20, 80], [20, 20]]], 6400),
        ([[[0, 0], [100, 0], [150, 0], [100, 0], [100, 100], [0, 100], [0, 0]]], 10_000),  # a spike
        ([[[0, 0], [100, 0], [100, 100], [50, 100], [50, 150], [50, 100], [0, 100]]], 10_000),
    ],
)
def test_crossing_outlines_are_made_valid(tmp_path: Path, rings: object, area: float) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(polygon(*rings))  # type: ignore[misc]
    found = geojson.read_tissue(path)
    assert all(part.is_valid for part in found)
    assert sum(part.area for part in found) == pytest.approx(area)


def test_a_long_outline_that_crosses_itself_once_is_kept(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    ring = (6000 + 5000 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).tolist()
    ring[100], ring[101] = ring[101], ring[100]
    path = tmp_path / "a.geojson"
    path.write_text(polygon(ring))
    assert sum(part.area for part in geojson.read_tissue(path)) == pytest.approx(np.pi * 5000**2, rel=1e-3)


def test_the_recipe_of_a_hostile_outline_file(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "FeatureCollection", "trident_recipe": ' + "[" * 50_000 + ', "features": [\n]}')
    with pytest.raises(StoreError, match="not GeoJSON"):
        geojson.read_recipe(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["type", "coordinates", "features", "geometry", "geometries", "schema_version", "tasks", "attempts", "slide",
         "settings", "slides", "pid", "hostname", "created_at", "patch", "uni_v1"]) | st.text(max_size=4), inner),
    max_leaves=12,
)  # fmt: skip
GENERATED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@GENERATED
@given(value=JSON | st.builds(lambda kind, inner: {"type": kind, "coordinates": inner, "features": inner},
                              st.sampled_from(["Polygon", "MultiPolygon", "FeatureCollection"]), JSON))  # fmt: skip
def test_any_json_as_outlines_and_locks(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(value))
    try:
        assert all(part.is_valid for part in geojson.read_tissue(path))
    except StoreError as error:
        assert "\n" not in str(error)
    holder = read_lock(path)
    assert holder is not None and "\n" not in holder.describe()
