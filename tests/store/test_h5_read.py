"""Reading HDF5 that others wrote, or that is damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from trident.errors import StoreError
from trident.store.h5_read import (
    read_coords,
    read_feature_blocks,
    read_features,
    read_header,
    read_recipe,
    read_slide_features,
)

READERS = [read_coords, read_features, read_slide_features, read_header]


def make(path: Path, **datasets: Any) -> Path:
    """A file as plain h5py writes it."""
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
    return path


def one_line(caught: pytest.ExceptionInfo[StoreError], path: Path) -> str:
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_clams_layout_is_read_as_it_is(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", coords=np.array([[0, 1], [2, 3]], np.int32))
    with h5py.File(path, "a") as file:
        attributes = {"patch_level": 1, "patch_size": 256, "downsample": np.array([4.0, 4.0]), "name": np.bytes_(b"a")}
        file["coords"].attrs.update({**attributes, "one": np.array([7]), "empty": h5py.Empty("f4")})
    found = read_coords(path)
    assert found.coords.dtype == np.int64
    assert found.coords.tolist() == [[0, 1], [2, 3]]
    expected = {"patch_level": 1, "patch_size": 256, "downsample": [4.0, 4.0], "name": "a", "one": 7, "empty": None}
    assert found.attributes == expected
    assert type(found.attributes["patch_level"]) is int
    assert found.recipe is None
    assert read_recipe(path) is None


def test_whole_numbers_stored_as_floats_are_coordinates(tmp_path: Path) -> None:
    assert read_coords(make(tmp_path / "a.h5", coords=np.array([[512.0, 3]]))).coords.tolist() == [[512, 3]]


def test_half_precision_features_become_float32(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", coords=np.zeros((2, 2), int), features=np.ones((2, 3), np.float16))
    assert read_features(path).features.dtype == np.float32


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        ("folder", "is a folder"),
        (b"", "this file is empty"),
        (b"hello, I am a text file\n" * 100, "not an HDF5 file"),
        ("half", "damaged"),
        ("head only", "damaged"),
    ],
)
def test_what_is_no_hdf5_file(
    tmp_path: Path, reader: Callable[[Path], object], content: bytes | str | None, message: str
) -> None:
    path = tmp_path / "block lock.h5"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        whole = make(path, coords=np.zeros((500, 2), int)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2 if content == "half" else 20])
    with pytest.raises(StoreError) as caught:
        reader(path)
    assert message in one_line(caught, path)


@pytest.mark.parametrize(
    ("reader", "datasets", "message"),
    [
        (read_coords, {}, "no dataset 'coords'"),
        (read_coords, {"coords": np.zeros((3, 3), int)}, "shape (N, 2), not (3, 3)"),
        (read_coords, {"coords": np.zeros(6, int)}, "shape (N, 2), not (6,)"),
        (read_coords, {"coords": 5}, "shape (N, 2), not ()"),
        (read_coords, {"coords": np.array([[0, 0], [1, np.nan]])}, "row 1 is [1.0, nan]"),
        (read_coords, {"coords": np.array([[0, np.inf]])}, "row 0"),
        (read_coords, {"coords": np.array([[0, 0.5]])}, "row 0"),
        (read_coords, {"coords": np.array([[0, 2**63]], np.uint64)}, "larger than any slide"),
        (read_coords, {"coords": np.array([[0, 1e30]])}, "larger than any slide"),
        (read_coords, {"coords": np.array([[b"a", b"b"]])}, "whole numbers, not |S1"),
        (read_features, {"coords": np.zeros((3, 2), int)}, "no dataset 'features'"),
        (read_features, {"features": np.zeros((3, 4), "f4")}, "no dataset 'coords'"),
        (read_features, {"features": np.zeros((3, 4), "f4"), "coords": np.zeros((2, 2), int)}, "3 rows of features"),
        (read_header, {"features": np.zeros((3, 4), "f4"), "coords": np.zeros((2, 2), int)}, "3 rows of features"),
        (read_features, {"features": np.zeros(4, "f4"), "coords": np.zeros((4, 2), int)}, "shape (4,), not (N, D)"),
        (read_features, {"features": np.zeros((3, 4), int), "coords": np.zeros((3, 2), int)}, "int64, not floats"),
        (read_slide_features, {"features": np.zeros((1, 4)), "coords": np.zeros((3, 2), int)}, "not (D,)"),
        (read_header, {"features": np.zeros((1, 2, 4)), "coords": np.zeros((3, 2), int)}, "not (D,) or (N, D)"),
    ],
)
def test_what_is_no_output(
    tmp_path: Path, reader: Callable[[Path], object], datasets: dict[str, Any], message: str
) -> None:
    path = make(tmp_path / "a.h5", **datasets)
    with pytest.raises(StoreError) as caught:
        reader(path)
    assert message in one_line(caught, path)
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_a_group_in_place_of_a_dataset(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("coords")
        file.create_group("features")
    with pytest.raises(StoreError, match="no dataset"):
        reader(tmp_path / "a.h5")


@pytest.mark.parametrize("reader", READERS)
def test_a_gigantic_claim_is_refused_without_memory(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("coords", shape=(10**12, 2), dtype="i8", chunks=(1000, 2))
        file.create_dataset("features", shape=(10**12, 2), dtype="f4", chunks=(1000, 2))
    with pytest.raises(StoreError, match="bytes that are not in the file"):
        reader(tmp_path / "a.h5")


def test_compressed_zeros_are_no_gigantic_claim(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("coords", data=np.zeros((200_000, 2), int), compression="gzip", compression_opts=9)
    assert len(read_coords(tmp_path / "a.h5").coords) == 200_000


def test_damaged_chunks_are_found_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        rows = np.random.default_rng(0).integers(0, 9, (5000, 2))
        chunk = file.create_dataset("coords", data=rows, chunks=(5000, 2), compression="gzip").id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 50 : chunk.byte_offset + 150] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        read_coords(path)
    assert "damaged" in one_line(caught, path)


@pytest.mark.parametrize("recipe", ["{", "[]", '{"recipe_version": 99}', 7])
def test_a_damaged_recipe(tmp_path: Path, recipe: Any) -> None:
    path = make(tmp_path / "a.h5", coords=np.zeros((1, 2), int))
    with h5py.File(path, "a") as file:
        file.attrs["trident_recipe"] = recipe
    with pytest.raises(StoreError) as caught:
        read_recipe(path)
    assert "recipe" in one_line(caught, path)


def test_header_without_data(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", coords=np.zeros((3, 2), int), features=np.zeros((3, 4), "f4"))
    with h5py.File(path, "a") as file:
        file.attrs["unreadable"] = 2
    header = read_header(path)
    assert (header.n_coords, header.features_shape, header.attributes) == (3, (3, 4), {"unreadable": 2})


HOLDER = """
import sys, h5py
with h5py.File(sys.argv[1], "a", locking=True) as file:
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("forced", [False, True])
def test_hdf5s_own_lock(tmp_path: Path, forced: bool) -> None:
    path = make(tmp_path / "a.h5", coords=np.zeros((1, 2), int))
    environment = {key: value for key, value in os.environ.items() if key != "HDF5_USE_FILE_LOCKING"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        code = f"from pathlib import Path; from trident.store.h5 import read_coords; read_coords(Path({str(path)!r}))"
        if forced:
            environment["HDF5_USE_FILE_LOCKING"] = "TRUE"
        reader = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600, check=False
        )
        if forced:
            assert "StoreError" in reader.stderr
            assert f"{path}: another program keeps this file locked" in reader.stderr
        else:
            assert (reader.returncode, reader.stderr) == (0, "")
    finally:
        holder.communicate("\n", timeout=600)


@pytest.mark.parametrize(
    ("chunk_rows", "block_bytes", "starts"),
    [
        (None, 1 << 20, [0]),
        (None, 4 * 5 * 30, [0, 30, 60, 90]),
        (7, 4 * 5 * 30, [0, 28, 56, 84]),
        (64, 4 * 5 * 30, [0, 64]),
        (100, 1, [0]),
        (1, 1, list(range(100))),
    ],
)
def test_blocks_are_the_whole_file_in_order(
    tmp_path: Path, chunk_rows: int | None, block_bytes: int, starts: list[int]
) -> None:
    features = np.random.default_rng(1).normal(size=(100, 5)).astype(np.float32)
    coords = np.arange(200).reshape(100, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=features, chunks=None if chunk_rows is None else (chunk_rows, 5))
        file.create_dataset("coords", data=coords)
    blocks = list(read_feature_blocks(tmp_path / "a.h5", block_bytes))
    assert [block.start for block in blocks] == starts
    np.testing.assert_array_equal(np.concatenate([block.features for block in blocks]), features)
    np.testing.assert_array_equal(np.concatenate([block.coords for block in blocks]), coords)


def test_blocks_of_half_precision_and_of_no_patches(tmp_path: Path) -> None:
    (block,) = read_feature_blocks(
        make(tmp_path / "a.h5", coords=np.zeros((2, 2), int), features=np.ones((2, 3), "f2"))
    )
    assert block.features.dtype == np.float32
    empty = make(tmp_path / "b.h5", coords=np.zeros((0, 2), int), features=np.ones((0, 3), "f4"))
    assert list(read_feature_blocks(empty)) == []


def test_blocks_of_a_file_that_does_not_fit_together(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", coords=np.zeros((3, 2), int), features=np.ones((2, 3), "f4"))
    with pytest.raises(StoreError) as caught:
        next(read_feature_blocks(path))
    assert "2 rows of features and 3 coordinates" in one_line(caught, path)
