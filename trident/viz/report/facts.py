"""Numbers out of the outputs themselves: tissue area from outlines, patch counts from coordinates.

Reading a thousand outlines takes seconds, so a number is kept with the stamp (size and time) of the file that it came
from, and read again only when that has changed. The numbers of the report before are handed in, those of this one out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trident.errors import StoreError
from trident.viz.report.values import number

Fact = dict[str, Any]
"""JSON-ready; `problem` says what is wrong with the file."""


def stamp(path: Path) -> str | None:
    """Size and time of a file, which change with its content; None where there is no such file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


class FactBook:
    """Facts of the files of one job directory.

    Attributes:
        written: what to keep for the next report: file -> {"stamp": …, "fact": …}.
    """

    def __init__(self, job_dir: Path, known: Mapping[str, Any]) -> None:
        self._job_dir = job_dir
        self._known = known
        self.written: dict[str, Fact] = {}

    def tissue(self, path: Path) -> Fact | None:
        """Of a GeoJSON file: `area_px2` (level-0 px², holes left out, overlaps once), `pieces`, `holes`, `mpp`, and
        `given_mpp`, the µm/px that a user gave for the slide (None: its own)."""
        return self._fact(path, _tissue_fact, {"area_px2", "given_mpp"})

    def coords(self, path: Path) -> Fact | None:
        """Of a coordinates file: `patches`."""
        return self._fact(path, _coords_fact, {"patches"})

    def _fact(self, path: Path, read: Callable[[Path], Fact], keys: set[str]) -> Fact | None:
        now = stamp(path)
        if now is None:
            return None
        key = relative_name(path, self._job_dir)
        known = self._known.get(key)
        fact: Fact
        kept = known.get("fact") if isinstance(known, dict) and known.get("stamp") == now else None
        # What was wrong may be mended without a change of the file: its rights, the name of a folder above it.
        if isinstance(kept, dict) and kept.keys() >= keys:
            fact = kept
        else:
            try:
                fact = read(path)
            except StoreError as error:
                fact = {"problem": str(error)}
        self.written[key] = {"stamp": now, "fact": fact}
        return fact


def relative_name(path: Path, job_dir: Path) -> str:
    """`path` relative to the job directory; as it is where `--coords_dir` lies elsewhere."""
    text, folder = str(path), f"{job_dir}{os.sep}"  # called for every file of a cohort: pathlib takes ten times as long
    return text.removeprefix(folder)


def _tissue_fact(path: Path) -> Fact:
    from shapely import union_all

    from trident.store.geojson import read_recipe, read_tissue

    polygons = read_tissue(path)
    recipe = read_recipe(path)
    return {
        # Outlines drawn by hand may overlap: the union counts what they share once.
        "area_px2": float(union_all(polygons).area) if polygons else 0.0,
        "pieces": len(polygons),
        "holes": sum(len(polygon.interiors) for polygon in polygons),
        "mpp": None if recipe is None else number(recipe.facts.get("level0_mpp")),
        "given_mpp": None if recipe is None else number(recipe.settings.get("mpp")),
    }


def _coords_fact(path: Path) -> Fact:
    from trident.store.h5_read import read_header

    return {"patches": read_header(path).n_coords}
