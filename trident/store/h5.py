"""Write coordinates, patch features and slide embeddings as HDF5, whole or not at all.

Dataset and attribute names are the output contract's; the recipe is one JSON text in the attribute `trident_recipe` of
the root group, beside everything that other readers look at. Reading is in `trident.store.h5_read`; its names are
offered here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trident.errors import StoreError
from trident.store import atomic
from trident.store.h5_read import (
    CoordsFile,
    FeaturesFile,
    H5Header,
    SlideFeaturesFile,
    as_coords,
    read_coords,
    read_features,
    read_header,
    read_recipe,
    read_slide_features,
)
from trident.store.h5_sink import H5Sink
from trident.store.recipes import RECIPE_KEY, Recipe

__all__ = [
    "CoordsFile",
    "FeatureFileWriter",
    "FeaturesFile",
    "H5Header",
    "SlideFeaturesFile",
    "read_coords",
    "read_features",
    "read_header",
    "read_recipe",
    "read_slide_features",
    "write_coords",
    "write_slide_features",
]

_CHUNK_BYTES = 1 << 20


def write_coords(path: Path, coords: ArrayLike, attributes: Mapping[str, object], recipe: Recipe | None) -> None:
    """Write `<slide>_patches.h5`.

    Args:
        path: final name.
        coords: (N, 2) integers, x and y of each patch's top-left corner in level-0 px; N may be 0.
        attributes: the contract's attributes of `coords`.
        recipe: what the coordinates were made with.

    Raises:
        StoreError: the coordinates are not (N, 2) integers, or the file cannot be written.
    """
    checked = as_coords(np.asarray(coords), path)
    with _new_file(path) as file:
        _put_coords(file, checked, attributes, path)
        _put_recipe(file, recipe, path)


def write_slide_features(
    path: Path,
    embedding: ArrayLike,
    coords: ArrayLike,
    coords_attributes: Mapping[str, object],
    *,
    name: str,
    savetodir: str,
    encoder: str,
    recipe: Recipe | None,
) -> None:
    """Write one slide's embedding, a vector of D float32, with the coordinates that it was made from.

    Raises:
        StoreError: the embedding is not a vector, the coordinates are wrong, or the file cannot be written.
    """
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1:
        raise StoreError(f"{path}: a slide embedding is a vector, and this one has the shape {vector.shape}")
    checked = as_coords(np.asarray(coords), path)
    with _new_file(path) as file:
        features = file.create_dataset("features", data=vector)
        _put_attributes(features, {"name": name, "savetodir": savetodir, "encoder": encoder}, path)
        _put_coords(file, checked, coords_attributes, path)
        _put_recipe(file, recipe, path)


class FeatureFileWriter:
    """Write `features_<encoder>/<slide>.h5` batch by batch, in the order of the coordinates.

    Use as a context manager. The file appears under its final name only if the block ends well and exactly `n_rows`
    rows were appended. An exception of the block itself goes through unchanged.

    Args:
        path: final name.
        n_rows: N, the number of patches; may be 0.
        dim: D, the length of one feature vector.
        coords: (N, 2) level-0 px, as in the coordinates file.
        coords_attributes: every attribute of the coordinates file.
        encoder: name of the patch encoder.
        name: slide name.
        savetodir: folder of the output.
        recipe: what the features were made with.

    Raises:
        StoreError: sizes that do not fit together, or (on entering, appending, leaving) a file that cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_rows: int,
        dim: int,
        coords: ArrayLike,
        coords_attributes: Mapping[str, object],
        encoder: str,
        name: str,
        savetodir: str,
        recipe: Recipe | None,
    ) -> None:
        self.path = path
        self.n_rows = n_rows
        self.dim = dim
        self.rows_written = 0
        self._coords = as_coords(np.asarray(coords), path)
        if len(self._coords) != n_rows:
            raise StoreError(f"{path}: {n_rows} rows of features were announced for {len(self._coords)} coordinates")
        if dim < 1:
            raise StoreError(f"{path}: a feature vector has at least one value, and {dim} were announced")
        self._coords_attributes = coords_attributes
        self._attributes = {"encoder": encoder, "name": name, "savetodir": savetodir}
        self._recipe = recipe
        self._file: _NewFile | None = None

    def __enter__(self) -> FeatureFileWriter:
        self._file = _NewFile(self.path)
        try:
            chunk_rows = max(1, min(self.n_rows, _CHUNK_BYTES // (4 * self.dim)))
            self._features = self._file.h5.create_dataset(
                "features",
                shape=(self.n_rows, self.dim),
                maxshape=(None, self.dim),
                chunks=(chunk_rows, self.dim),
                dtype=np.float32,
            )
            _put_attributes(self._features, self._attributes, self.path)
            _put_coords(self._file.h5, self._coords, self._coords_attributes, self.path)
            _put_recipe(self._file.h5, self._recipe, self.path)
            self._file.check()
        except BaseException:
            self._file.abandon()
            raise
        return self

    def append(self, features: ArrayLike) -> None:
        """Write the next b rows, an array of shape (b, D).

        Raises:
            StoreError: another shape, more rows than announced, or the disk does not take them.
        """
        opened = self._opened
        batch = np.asarray(features, dtype=np.float32)
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise StoreError(f"{self.path}: features of shape (b, {self.dim}) are due, not {batch.shape}")
        end = self.rows_written + len(batch)
        if end > self.n_rows:
            raise StoreError(f"{self.path}: {end} rows of features for {self.n_rows} coordinates")
        if len(batch):
            self._features[self.rows_written : end] = batch
        self.rows_written = end
        opened.check()

    def set_attribute(self, key: str, value: object) -> None:
        """Record something about the run (unreadable patches, say) as an attribute of the root group."""
        _put_attributes(self._opened.h5, {key: value}, self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, self._file = self._opened, None
        if kind is not None or self.rows_written != self.n_rows:
            opened.abandon()
        else:
            opened.commit()
        if kind is None and self.rows_written != self.n_rows:
            raise StoreError(
                f"{self.path}: only {self.rows_written} of {self.n_rows} rows of features were made; run again"
            )

    @property
    def _opened(self) -> _NewFile:
        if self._file is None:
            raise StoreError(f"{self.path}: the feature file is not open; use the writer in a `with` statement")
        return self._file


class _NewFile:
    """An HDF5 file under its temporary name, on a sink that remembers write errors; ends in a commit or abandoned."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._temp = atomic.begin(final)
        try:
            self._sink = H5Sink(self._temp)
        except OSError as error:
            raise atomic.store_error(final, error) from error
        self.h5 = h5py.File(self._sink, "w")

    def check(self) -> None:
        """Raise the write error that the sink has met, if any, as a StoreError."""
        if self._sink.error is not None:
            raise atomic.store_error(self._final, self._sink.error) from self._sink.error

    def commit(self) -> None:
        """Close, and give the file its final name."""
        try:
            self._close()
            self.check()
            atomic.commit(self._temp, self._final)
        finally:
            atomic.discard(self._temp)

    def abandon(self) -> None:
        """Close, and remove the file."""
        try:
            self._close()
        finally:
            atomic.discard(self._temp)

    def _close(self) -> None:
        try:
            self.h5.close()
        finally:
            self._sink.close()


@contextmanager
def _new_file(path: Path) -> Iterator[h5py.File]:
    opened = _NewFile(path)
    try:
        yield opened.h5
    except BaseException:
        opened.abandon()
        raise
    opened.commit()


def _put_coords(file: h5py.File, coords: NDArray[np.int64], attributes: Mapping[str, object], path: Path) -> None:
    _put_attributes(file.create_dataset("coords", data=coords), attributes, path)


def _put_recipe(file: h5py.File, recipe: Recipe | None, path: Path) -> None:
    if recipe is not None:
        _put_attributes(file, {RECIPE_KEY: recipe.to_json()}, path)


def _put_attributes(target: h5py.File | h5py.Dataset, attributes: Mapping[str, object], path: Path) -> None:
    """Set attributes: whole numbers as int64, others as float64, texts as UTF-8."""
    for key, value in attributes.items():
        # A slide whose file name is not UTF-8 is named with escapes: HDF5 has no other way to say it.
        plain = value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
        try:
            target.attrs[key] = plain
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise StoreError(f"{path}: the attribute {key!r} cannot be written ({reason}); please report it") from error
