"""The patches of a cohort that are nearest to given ones, by the cosine between their features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trident.errors import SettingsError, StoreError
from trident.store import h5
from trident.store.h5_read import read_feature_blocks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patch:
    """One patch of a cohort: the slide's name, the row in its files, and its corner in level-0 px."""

    slide: str
    index: int
    x: int
    y: int


@dataclass(frozen=True)
class Match:
    """A patch, and the cosine between its features and those of the query, -1 to 1."""

    patch: Patch
    cosine: float


@dataclass(frozen=True)
class Query:
    """A patch to look for, and its features (D,) float64, of length 1."""

    patch: Patch
    features: NDArray[np.float64]


@dataclass
class Found:
    """What a search found.

    Attributes:
        matches: for each query, nearest first.
        n_patches: that were compared.
        problems: one line for each file that could not be used.
    """

    matches: list[list[Match]]
    n_patches: int = 0
    problems: list[str] = field(default_factory=list)


def find_queries(
    path: Path, slide: str, indices: Sequence[int] = (), places: Sequence[tuple[int, int]] = ()
) -> list[Query]:
    """Take patches of one slide as queries.

    Args:
        path: features of the slide.
        slide: its name.
        indices: rows, counted from 0.
        places: corners in level-0 px; any other point means the patch that it lies in, if there is just one.

    Raises:
        SettingsError: there is no such patch, or its features have no direction.
        StoreError: the features cannot be read.
    """
    stored = h5.read_coords(path)  # a features file has the same coordinates
    noted = stored.attributes.get("patch_size_level0")
    side_px = noted if isinstance(noted, int | float) else 0
    wanted = [*indices, *(_row_at(stored.coords, side_px, place, slide) for place in places)]
    for index in wanted:
        if not 0 <= index < len(stored.coords):
            last = f"rows 0 to {len(stored.coords) - 1}" if len(stored.coords) else "no patches"
            raise SettingsError(f"--index {index}: slide {slide} has {last}")
    rows: dict[int, Query] = {}
    for block in read_feature_blocks(path):
        for index in set(wanted):
            row = index - block.start
            if 0 <= row < len(block.features):
                x, y = block.coords[row].tolist()
                rows[index] = Query(Patch(slide, index, x, y), _direction(block.features[row], index, slide))
    return [rows[index] for index in wanted]


def find_similar(
    files: Iterable[tuple[str, Path]],
    queries: Sequence[Query],
    count: int,
    *,
    accept: Callable[[str, Query], bool] = lambda slide, query: True,
    progress: Callable[[int], object] = lambda done: None,
) -> Found:
    """The `count` patches nearest to each query, over all files; a query itself is no match of its own.

    One block of one file is held at a time. Of equal cosines the first slide and the first row comes first. Patches
    without a direction (all zeros, NaN) are left out, and a file that cannot be used costs no other.

    Args:
        files: (slide, its features), in the order in which they are read.
        queries: all of one length D.
        count: k.
        accept: (slide, query) -> whether the slide's patches may match the query.
        progress: told how many files are done.
    """
    directions = np.stack([query.features for query in queries])
    found = Found([[] for _ in queries])
    for done, (slide, path) in enumerate(files, start=1):
        best: list[list[Match]] = [list(matches) for matches in found.matches]
        wanted = [number for number, query in enumerate(queries) if accept(slide, query)]
        n_patches = 0
        try:
            for block in read_feature_blocks(path) if wanted else ():
                if block.features.shape[1] != directions.shape[1]:
                    raise StoreError(
                        f"{path}: its features have {block.features.shape[1]} values and those of the query "
                        f"{directions.shape[1]}; make them anew with one encoder"
                    )
                n_patches += len(block.features)
                cosines = _cosines(block.features, directions)
                for number in wanted:
                    query = queries[number].patch
                    for row in _top(cosines[:, number], count + 1):
                        x, y = block.coords[row].tolist()
                        patch = Patch(slide, block.start + row, x, y)
                        if (patch.slide, patch.index) != (query.slide, query.index):
                            best[number].append(Match(patch, float(cosines[row, number])))
                    best[number] = sorted(best[number], key=lambda match: -match.cosine)[:count]
        except StoreError as error:
            logger.error("%s", error)
            found.problems.append(str(error))
        else:
            found.matches, found.n_patches = best, found.n_patches + n_patches
        progress(done)
    return found


def _cosines(features: NDArray[np.float32], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, D), (q, D) of length 1 -> (n, q); NaN where a row has no direction."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    cosines = np.full((len(rows), len(directions)), np.nan)
    cosines[usable] = (rows[usable] @ directions.T / lengths[usable, np.newaxis]).clip(-1, 1)
    return cosines


def _top(values: NDArray[np.float64], count: int) -> list[int]:
    """Rows of the largest values, none of them NaN, from the largest; of equal ones the first."""
    rows = np.flatnonzero(np.isfinite(values))
    if len(rows) > count:
        least = np.partition(values[rows], len(rows) - count)[len(rows) - count]
        rows = rows[values[rows] >= least]
    return [int(row) for row in rows[np.argsort(-values[rows], kind="stable")][:count]]


def _direction(features: NDArray[np.float32], index: int, slide: str) -> NDArray[np.float64]:
    row = features.astype(np.float64)
    length = np.linalg.norm(row)
    if not (np.isfinite(length) and length > 0):
        raise SettingsError(f"patch {index} of {slide} has features without a direction (zeros, NaN); take another")
    direction: NDArray[np.float64] = row / length
    return direction


def _row_at(coords: NDArray[np.int64], side_px: float, place: tuple[int, int], slide: str) -> int:
    exact = np.flatnonzero((coords == place).all(axis=1))
    if len(exact):
        return int(exact[0])
    offset = np.array(place) - coords
    inside = np.flatnonzero(((offset >= 0) & (offset < side_px)).all(axis=1))
    if len(inside) == 1:
        return int(inside[0])
    what = f"{len(inside)} overlapping patches" if len(inside) else "no patch"
    raise SettingsError(
        f"--patch {place[0]} {place[1]}: slide {slide} has {what} there; give the level-0 corner of a patch, or its "
        "row with --index"
    )
