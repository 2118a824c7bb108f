"""Writing HDF5, checked with plain h5py against the output contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from trident.errors import StoreError
from trident.store.h5 import FeatureFileWriter, read_coords, read_features, write_coords, write_slide_features
from trident.store.recipes import Recipe

COORDS_ATTRIBUTES = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "slide ü",
    "savetodir": "/job/20x_256px_0px_overlap",
    "level0_width": 100_000,
    "level0_height": 80_000,
}
RECIPE = Recipe("coords", {"mag": 20}, {"tissue": "sha256:00"}, {"host": "h"})


def some_coords(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 2**40, (count, 2))


def writer(path: Path, count: int, dim: int = 7, **changes: Any) -> FeatureFileWriter:
    arguments = {
        "n_rows": count,
        "dim": dim,
        "coords": some_coords(count),
        "coords_attributes": COORDS_ATTRIBUTES,
        "encoder": "uni_v1",
        "name": "slide ü",
        "savetodir": "/job/features_uni_v1",
        "recipe": RECIPE,
    }
    return FeatureFileWriter(path, **{**arguments, **changes})


def check_coords(file: h5py.File, count: int) -> None:
    dataset = file["coords"]
    assert dataset.dtype == np.int64
    assert dataset.shape == (count, 2)
    assert np.array_equal(dataset[()], some_coords(count))
    assert dict(dataset.attrs) == COORDS_ATTRIBUTES
    for key, value in COORDS_ATTRIBUTES.items():
        assert isinstance(dataset.attrs[key], np.int64 if isinstance(value, int) else str)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_coordinates_file(tmp_path: Path, count: int) -> None:
    path = tmp_path / "patches" / "slide_patches.h5"
    write_coords(path, some_coords(count), COORDS_ATTRIBUTES, RECIPE)
    with h5py.File(path, "r") as file:
        assert list(file) == ["coords"]
        check_coords(file, count)
        assert Recipe.from_json(file.attrs["trident_recipe"], path) == RECIPE
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_without_recipe_there_is_no_attribute(tmp_path: Path) -> None:
    write_coords(tmp_path / "a.h5", [], {}, None)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["coords"].shape == (0, 2)
        assert list(file.attrs) == []


@pytest.mark.parametrize(("count", "batch"), [(0, 1), (1, 1), (10, 3), (1000, 64), (1000, 1000)])
def test_features_file(tmp_path: Path, count: int, batch: int) -> None:
    path = tmp_path / "features_uni_v1" / "slide.h5"
    features = np.random.default_rng(1).random((count, 7), dtype=np.float32)
    with writer(path, count) as out:
        for start in range(0, count, batch):
            assert not path.exists()
            out.append(features[start : start + batch])
        out.set_attribute("unreadable_patches", np.array([3, 5]))
    with h5py.File(path, "r") as file:
        assert sorted(file) == ["coords", "features"]
        assert file["features"].dtype == np.float32
        assert file["features"].shape == (count, 7)
        assert np.array_equal(file["features"][()], features)
        expected = {"encoder": "uni_v1", "name": "slide ü", "savetodir": "/job/features_uni_v1"}
        assert dict(file["features"].attrs) == expected
        check_coords(file, count)
        assert file.attrs["unreadable_patches"].tolist() == [3, 5]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("count", "dim", "rows"), [(5000, 1024, 256), (10, 1024, 10), (3, 2_000_000, 1), (0, 8, 1)])
def test_chunks_are_about_a_mebibyte(tmp_path: Path, count: int, dim: int, rows: int) -> None:
    path = tmp_path / "a.h5"
    with writer(path, count, dim) as out:
        out.append(np.broadcast_to(np.float32(1), (count, dim)))
    with h5py.File(path, "r") as file:
        assert file["features"].chunks == (rows, dim)


def test_half_precision_is_stored_as_float32(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5", 2) as out:
        out.append(np.full((2, 7), 0.5, np.float16))
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["features"].dtype == np.float32


@pytest.mark.parametrize("made", [0, 1, 9])
def test_too_few_rows_leave_no_file(tmp_path: Path, made: int) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(StoreError, match=f"only {made} of 10 rows"), writer(path, 10) as out:
        out.append(np.zeros((made, 7)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 8), (7,), (1, 1, 7), (11, 7)])
def test_rows_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(StoreError, match=r"a\.h5: .*features"), writer(tmp_path / "a.h5", 10) as out:
        out.append(np.zeros(shape))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), OSError("slide gone"), KeyboardInterrupt()])
def test_the_blocks_own_error_goes_through_and_the_old_file_stays(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.h5"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, writer(path, 10) as out:
        out.append(np.zeros((5, 7)))
        raise error
    assert caught.value is error
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.h5"]


def test_a_writer_is_used_in_a_with_statement(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="`with`"):
        writer(tmp_path / "a.h5", 1).append(np.zeros((1, 7)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_rows": 9}, "9 rows of features were announced for 10 coordinates"),
        ({"dim": 0}, "at least one value"),
        ({"coords": np.zeros((10, 3), int)}, r"\(N, 2\), not \(10, 3\)"),
    ],
)
def test_sizes_that_do_not_fit_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        writer(tmp_path / "a.h5", 10, **changes)


def test_an_attribute_that_hdf5_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="attribute 'bad' cannot be written"), writer(tmp_path / "a.h5", 0) as out:
        out.set_attribute("bad", object())
    with pytest.raises(StoreError, match="attribute 'patch_size' cannot be written"):
        write_coords(tmp_path / "a.h5", [], {"patch_size": None}, None)
    with pytest.raises(StoreError, match="attribute 'long' cannot be written"):
        write_coords(tmp_path / "a.h5", [], {"long": np.zeros(10_000)}, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "coords", [np.array([[0.5, 1]]), np.array([[np.nan, 1]]), np.zeros((2, 3), int), np.zeros(4, int), [["a", "b"]]]
)
def test_coordinates_that_are_none(tmp_path: Path, coords: Any) -> None:
    with pytest.raises(StoreError, match=r"a\.h5: .*coordinate"):
        write_coords(tmp_path / "a.h5", coords, {}, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 4])
def test_slide_features_file(tmp_path: Path, count: int) -> None:
    path = tmp_path / "slide_features_titan" / "slide.h5"
    vector = np.arange(5) / 3
    write_slide_features(
        path,
        vector,
        some_coords(count),
        COORDS_ATTRIBUTES,
        name="slide ü",
        savetodir="/job/s",
        encoder="titan",
        recipe=RECIPE,
    )
    with h5py.File(path, "r") as file:
        assert file["features"].dtype == np.float32
        assert np.array_equal(file["features"][()], vector.astype(np.float32))
        assert dict(file["features"].attrs) == {"name": "slide ü", "savetodir": "/job/s", "encoder": "titan"}
        check_coords(file, count)
        assert "trident_recipe" in file.attrs


def test_a_slide_embedding_is_a_vector(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"shape \(1, 5\)"):
        write_slide_features(
            tmp_path / "a.h5", np.zeros((1, 5)), [], {}, name="n", savetodir="s", encoder="e", recipe=None
        )


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_coords(tmp_path / "a.h5", [], {"name": "a\udcff"}, None)
    assert read_coords(tmp_path / "a.h5").attributes == {"name": "a\\udcff"}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    features = np.random.default_rng(1).random((10, 7), dtype=np.float32)
    with writer(tmp_path / "a.h5", 10) as out:
        out.append(features)
    found = read_features(tmp_path / "a.h5")
    assert np.array_equal(found.features, features)
    assert np.array_equal(found.coords, some_coords(10))
    assert found.attributes == {"encoder": "uni_v1", "name": "slide ü", "savetodir": "/job/features_uni_v1"}
    assert found.coords_attributes == COORDS_ATTRIBUTES
    assert found.recipe == RECIPE
