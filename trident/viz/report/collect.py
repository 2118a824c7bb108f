"""Everything that the page shows about a job directory, as JSON-ready values and the pictures to embed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trident import __version__
from trident.store.layout import JobLayout
from trident.store.processes import utc_now
from trident.store.redact import plain
from trident.store.timings import describe, summed
from trident.viz.report.facts import FactBook, relative_name
from trident.viz.report.grids import find_grids
from trident.viz.report.pictures import MAX_PICTURES, SMALLEST_SIDE_PX, picture_of, side_px
from trident.viz.report.records import Records, State, read_records
from trident.viz.report.stages import StageColumn, cell_of, due_tasks, find_stages
from trident.viz.report.values import listing, mapping, number, text

MAX_RUNS = 20
"""Only the last runs are listed."""


@dataclass
class Collected:
    """What goes into the page.

    Attributes:
        data: for the page's script.
        facts: to be kept for the next report.
        pictures: id -> file, in the order of the slides.
        side_px: longest side of the pictures.
    """

    data: dict[str, Any]
    facts: dict[str, Any]
    pictures: dict[str, Path] = field(default_factory=dict)
    side_px: int = SMALLEST_SIDE_PX


def collect(job_dir: Path, page_dir: Path, known_facts: Mapping[str, Any]) -> Collected:
    """Look at a whole job directory.

    Args:
        job_dir: it exists.
        page_dir: folder of the page, from which its links to full-size pictures start.
        known_facts: as kept from the report before.
    """
    records = read_records(job_dir)
    grids = find_grids(job_dir, records.grid)
    tasks = {str(task) for state in records.states.values() for task in mapping(state.get("tasks"))}
    columns = find_stages(job_dir, grids, tasks, due_tasks(records.states.values(), grids))
    names = sorted(set(records.states) | set(records.planned).union(*(column.outputs for column in columns)))
    book = FactBook(job_dir, known_facts)
    side = side_px(len(names) * (1 + len(grids)))
    found = Collected({}, book.written, side_px=side)
    page = _Page(job_dir, page_dir, records, grids, columns, book, found)
    slides = [page.slide(name) for name in names]
    found.data = {
        "version": __version__,
        "generated_at": utc_now(),
        "job_dir": str(job_dir),
        "job_name": job_dir.name,
        "wsi_dir": records.wsi_dir,
        "running": records.running,
        "grids": grids,
        "stages": [_stage(column, [slide["cells"][at] for slide in slides]) for at, column in enumerate(columns)],
        "slides": slides,
        "runs": [_run(run) for run in records.runs[:MAX_RUNS]],
        "n_runs": len(records.runs),
        "problems": [*records.problems, *page.problems],
        "picture_side_px": side,
        "pictures_left_out": page.left_out,
    }
    return found


@dataclass
class _Page:
    """One pass over the slides."""

    job_dir: Path
    page_dir: Path
    records: Records
    grids: list[str]
    columns: list[StageColumn]
    book: FactBook
    found: Collected
    problems: list[str] = field(default_factory=list)
    left_out: int = 0

    def slide(self, name: str) -> dict[str, Any]:
        """Everything about one slide."""
        state = self.records.states.get(name, {})
        about, meta = mapping(state.get("slide")), mapping(state.get("meta"))
        tissue = self._known(self.book.tissue(JobLayout(self.job_dir, "").tissue(name)))
        mpp = number(meta.get("mpp")) or number(tissue.get("mpp"))
        area_px2 = number(tissue.get("area_px2"))
        values: dict[str, Any] = {
            "name": name,
            "rel_path": self.records.planned.get(name) or text(about.get("rel_path")),
            "abs_path": text(about.get("abs_path")),
            "reader": text(about.get("reader_type")),
            "mpp": mpp,
            "given_mpp": number(tissue.get("given_mpp")) or self.records.given_mpp.get(name),
            "mag": number(meta.get("mag")),
            "size_px": [side for side in map(number, listing(meta.get("dimensions"))) if side],
            "levels": number(meta.get("level_count")),
            "tissue_mm2": None if mpp is None or area_px2 is None else area_px2 * mpp * mpp / 1e6,
            "pieces": number(tissue.get("pieces")),
            "holes": number(tissue.get("holes")),
            "patches": [self._patches(name, grid) for grid in self.grids],
            "cells": self._cells(name, state),
            "notes": [str(note) for note in _notes(state)],
            "updated_at": text(state.get("updated_at")),
            "tissue_picture": self._picture(*self._tissue_pictures(name)),
            "patch_pictures": [self._picture(JobLayout(self.job_dir, grid).coords_image(name)) for grid in self.grids],
        }
        return {key: value for key, value in values.items() if value not in (None, [])}

    def _cells(self, name: str, state: State) -> list[dict[str, Any]]:
        tasks = mapping(state.get("tasks"))
        return [cell_of(column, name, tasks, self.grids, self.records.running) for column in self.columns]

    def _patches(self, name: str, grid: str) -> float | None:
        return number(self._known(self.book.coords(JobLayout(self.job_dir, grid).coords(name))).get("patches"))

    def _known(self, fact: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if fact is None:
            return {}
        if "problem" in fact:
            self.problems.append(str(fact["problem"]))
        return fact

    def _tissue_pictures(self, name: str) -> tuple[Path, Path]:
        layout = JobLayout(self.job_dir, "")
        return layout.contours_image(name), layout.thumbnail(name)

    def _picture(self, *candidates: Path) -> dict[str, str] | None:
        """Id and link of the first of these files that exists."""
        for path in candidates:
            picture = picture_of(path, self.job_dir, self.found.side_px)
            if picture is None:
                continue
            shown = {"file": relative_name(path, self.job_dir)}
            if self.job_dir == self.page_dir and path.is_relative_to(self.job_dir):
                shown["link"] = quote(relative_name(path, self.job_dir).encode("utf-8", "surrogateescape"))
            if len(self.found.pictures) < MAX_PICTURES:
                self.found.pictures[picture.id] = path
                shown["id"] = picture.id
            else:
                self.left_out += 1
            return shown
        return None


def _notes(state: State) -> list[object]:
    notes = mapping(state.get("summary")).get("notes")
    return list(notes) if isinstance(notes, list) else [notes] if isinstance(notes, str) and notes else []


def _stage(column: StageColumn, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A stage, and where its time went over all slides."""
    spent = describe(summed(cell["timings"] for cell in cells if "timings" in cell))
    return {"task": column.task, "kind": column.kind, "grid": column.grid, "encoder": column.encoder, "spent": spent}


def _run(run: State) -> dict[str, Any]:
    keys = ("run_id", "tool", "started_at", "finished_at", "status", "error", "host", "trident_version")
    shown: dict[str, Any] = {key: text(run.get(key)) for key in keys}
    shown["args"] = plain(mapping(run.get("args")))
    return shown
