"""Read coordinates, patch features and slide embeddings from HDF5, whoever wrote them.

Whatever is wrong with a file becomes a one-line `StoreError`. Files are opened without HDF5's own locking: outputs are
complete when they have their final name, and network folders often refuse such locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from trident.errors import StoreError
from trident.store.recipes import RECIPE_KEY, Recipe

Attributes = dict[str, Any]
"""Attribute name -> int, float, bool or str (a list for the rare array)."""

_REDO = "delete it, or use --overwrite, to have it made again"
_MAX_INFLATION = 1100
"""No compression that HDF5 ships shrinks data further; a file that claims more is damaged or hostile."""


@dataclass(frozen=True)
class CoordsFile:
    """A coordinates file: `coords` (N, 2) int64 level-0 px, its attributes, and the recipe where there is one."""

    coords: NDArray[np.int64]
    attributes: Attributes
    recipe: Recipe | None


@dataclass(frozen=True)
class FeaturesFile:
    """A patch-feature file: `features` (N, D) float32, row i belonging to row i of `coords` (N, 2) int64."""

    features: NDArray[np.float32]
    coords: NDArray[np.int64]
    attributes: Attributes
    coords_attributes: Attributes
    recipe: Recipe | None


@dataclass(frozen=True)
class SlideFeaturesFile:
    """A slide embedding: `features` (D,) float32, and the `coords` (N, 2) int64 that it was made from."""

    features: NDArray[np.float32]
    coords: NDArray[np.int64]
    attributes: Attributes
    coords_attributes: Attributes
    recipe: Recipe | None


@dataclass(frozen=True)
class FeaturesBlock:
    """Some rows of a patch-feature file: `features` (n, D) float32 and `coords` (n, 2) int64, of which the first is
    row `start` of the file."""

    start: int
    features: NDArray[np.float32]
    coords: NDArray[np.int64]


@dataclass(frozen=True)
class H5Header:
    """What an output holds, without its data.

    Attributes:
        n_coords: number of patches.
        features_shape: (N, D) or (D,); None in a coordinates file.
        attributes: of the root group, the recipe left out.
        recipe: None where another tool wrote the file.
    """

    n_coords: int
    features_shape: tuple[int, ...] | None
    attributes: Attributes
    recipe: Recipe | None


def read_coords(path: Path) -> CoordsFile:
    """Read `<slide>_patches.h5`, also one that an older tool wrote (attributes are given as they are).

    Raises:
        StoreError: missing, damaged, or its `coords` are not (N, 2) whole numbers.
    """
    with _opened(path) as file:
        coords = _coords(file, path)
        return CoordsFile(_load_coords(coords, path), _attributes(coords), _recipe(file, path))


def read_features(path: Path) -> FeaturesFile:
    """Read a patch-feature file.

    Raises:
        StoreError: missing, damaged, not (N, D) floats, or not one row a coordinate.
    """
    with _opened(path) as file:
        features, coords = _features(file, path, 2), _coords(file, path)
        if len(features) != len(coords):
            raise _wrong(path, f"it has {len(features)} rows of features and {len(coords)} coordinates")
        return FeaturesFile(
            _load_floats(features),
            _load_coords(coords, path),
            _attributes(features),
            _attributes(coords),
            _recipe(file, path),
        )


def read_feature_blocks(path: Path, block_bytes: int = 16 << 20) -> Iterator[FeaturesBlock]:
    """Read a patch-feature file block by block, for files that are larger than what one wants to hold.

    Args:
        path: the file; it stays open until the last block was taken.
        block_bytes: most bytes of features in a block, but for one row or one chunk of the file that is larger.

    Yields:
        All rows, in their order; a file without patches has no block.

    Raises:
        StoreError: as `read_features`, at the first block or where the damage is.
    """
    with _opened(path) as file:
        features, coords = _features(file, path, 2), _coords(file, path)
        if len(features) != len(coords):
            raise _wrong(path, f"it has {len(features)} rows of features and {len(coords)} coordinates")
        places = _load_coords(coords, path)
        chunk_rows = features.chunks[0] if features.chunks else 1
        # Whole chunks, so that none is decompressed twice.
        rows = max(1, block_bytes // max(1, 4 * features.shape[1]) // chunk_rows) * chunk_rows
        for start in range(0, len(places), rows):
            block = np.ascontiguousarray(features[start : start + rows], dtype=np.float32)
            yield FeaturesBlock(start, block, places[start : start + rows])


def read_slide_features(path: Path) -> SlideFeaturesFile:
    """Read a slide embedding.

    Raises:
        StoreError: missing, damaged, or not a vector of floats.
    """
    with _opened(path) as file:
        features, coords = _features(file, path, 1), _coords(file, path)
        return SlideFeaturesFile(
            _load_floats(features),
            _load_coords(coords, path),
            _attributes(features),
            _attributes(coords),
            _recipe(file, path),
        )


def read_header(path: Path) -> H5Header:
    """Check the shape and type of what a file holds without reading its data; enough to call an output valid.

    Raises:
        StoreError: missing, damaged, or not an output of ours.
    """
    with _opened(path) as file:
        coords = _coords(file, path)
        shape = None
        if "features" in file:
            shape = _features(file, path, None).shape
            if len(shape) == 2 and shape[0] != len(coords):
                raise _wrong(path, f"it has {shape[0]} rows of features and {len(coords)} coordinates")
        attributes = {key: value for key, value in _attributes(file).items() if key != RECIPE_KEY}
        return H5Header(len(coords), shape, attributes, _recipe(file, path))


def read_recipe(path: Path) -> Recipe | None:
    """The recipe in a file, without reading its data; None where another tool wrote it.

    Raises:
        StoreError: missing or damaged.
    """
    with _opened(path) as file:
        return _recipe(file, path)


def as_coords(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Check that `values` are (N, 2) whole numbers and give them as int64.

    Raises:
        StoreError: another shape or type, a fraction, NaN or infinity; the message begins with `path`.
    """
    if values.ndim == 1 and values.size == 0:
        values = values.reshape(0, 2)
    _check_coords(values.shape, values.dtype, path)
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values).all(axis=1) | (values != np.round(values)).any(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            raise _wrong(path, f"the coordinate in row {row} is {values[row].tolist()}, not two whole numbers")
    if values.size and float(np.abs(values.astype(np.float64)).max()) >= 2**62:
        raise _wrong(path, "a coordinate is larger than any slide")
    return np.ascontiguousarray(values, dtype=np.int64)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open for reading; anything that HDF5 says against the file, now or later, becomes a StoreError."""
    try:
        if not path.is_file():
            what = "is a folder where a file is due" if path.is_dir() else "is missing"
            raise StoreError(f"{path}: this HDF5 file {what}; run the stage that makes it")
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise StoreError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "you may not read this file; change its permissions"
    text = " ".join(str(error).split())
    if "unable to lock file" in text:
        return "another program keeps this file locked; close it (or set HDF5_USE_FILE_LOCKING=FALSE) and run again"
    if "file signature not found" in text:
        empty = path.is_file() and path.stat().st_size == 0
        return f"{'this file is empty' if empty else 'this is not an HDF5 file'}; {_REDO}"
    return f"this HDF5 file is damaged ({text[:160] or type(error).__name__}); {_REDO}"


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise _wrong(path, f"it has no dataset {name!r}")
    if found.file.filename != file.filename or found.external or found.is_virtual:
        raise _wrong(path, f"its {name!r} lie in another file, which outputs of ours never do")
    claimed = found.size * found.dtype.itemsize if found.size else 0
    if claimed > 4096 + _MAX_INFLATION * found.id.get_storage_size():
        raise _wrong(path, f"its {name!r} claim {claimed} bytes that are not in the file")
    return found


def _coords(file: h5py.File, path: Path) -> h5py.Dataset:
    coords = _dataset(file, "coords", path)
    _check_coords(coords.shape, coords.dtype, path)
    return coords


def _check_coords(shape: tuple[int, ...] | None, dtype: np.dtype[Any], path: Path) -> None:
    if shape is None or len(shape) != 2 or shape[1] != 2:
        raise _wrong(path, f"coordinates have the shape (N, 2), not {shape}")
    if dtype.kind not in "iuf":
        raise _wrong(path, f"coordinates are whole numbers, not {dtype}")


def _features(file: h5py.File, path: Path, dimensions: int | None) -> h5py.Dataset:
    features = _dataset(file, "features", path)
    allowed = {1: "(D,)", 2: "(N, D)"} if dimensions is None else {dimensions: ("(D,)", "(N, D)")[dimensions - 1]}
    if features.shape is None or len(features.shape) not in allowed:
        due = " or ".join(allowed.values())
        raise _wrong(path, f"its features have the shape {features.shape}, not {due}")
    if features.dtype.kind != "f":
        raise _wrong(path, f"its features are {features.dtype}, not floats")
    return features


def _load_coords(dataset: h5py.Dataset, path: Path) -> NDArray[np.int64]:
    return as_coords(np.asarray(dataset[()]), path)


def _load_floats(dataset: h5py.Dataset) -> NDArray[np.float32]:
    return np.ascontiguousarray(dataset[()], dtype=np.float32)


def _attributes(target: h5py.File | h5py.Dataset) -> Attributes:
    return {str(key): _scalar(value) for key, value in target.attrs.items()}


def _scalar(value: Any) -> Any:
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, np.ndarray):
        return _scalar(value.reshape(-1)[0]) if value.size == 1 else [_scalar(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _recipe(file: h5py.File, path: Path) -> Recipe | None:
    text = _scalar(file.attrs.get(RECIPE_KEY))
    if text is None:
        return None
    return Recipe.from_json(text, path) if isinstance(text, str) else Recipe.from_dict(text, path)


def _wrong(path: Path, what: str) -> StoreError:
    return StoreError(f"{path}: {what}; {_REDO}")
