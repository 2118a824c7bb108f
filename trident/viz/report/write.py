"""Write the report of a job directory, and write it again cheaply while the job goes on."""

from __future__ import annotations

import os
from pathlib import Path

from trident.errors import StoreError
from trident.store.atomic import store_error, write_bytes
from trident.store.layout import PRIVATE_DIR, JobLayout
from trident.viz.report.collect import collect
from trident.viz.report.facts import relative_name
from trident.viz.report.grids import find_grids
from trident.viz.report.page import Kept, is_report, printable, read_kept, render
from trident.viz.report.pictures import make_pictures

REPORT_NAME = "report.html"

_MARKS = ("wsi_states", "runs", "summary.md", "contours_geojson", "contours", "thumbnails", PRIVATE_DIR)


def write_report(job: JobLayout | Path | str, output: Path | str | None = None) -> Path:
    """Write one self-contained HTML file about a job directory and return its path.

    A report that stands there already lends its pictures and numbers, so writing it again reads only what has changed
    since (figures: docs/report.md). The file appears whole or not at all, and runs that write it at once do no harm.

    Args:
        job: the job directory, or a layout of it.
        output: file to write; `report.html` in the job directory by default.

    Raises:
        StoreError: not a job directory, or `output` is something else than a report or cannot be written.
    """
    job_dir = job.job_dir if isinstance(job, JobLayout) else Path(job)
    job_dir = Path(os.path.abspath(job_dir))  # noqa: PTH100 - links stay as they are: the path is what the user gave
    _require_job(job_dir)
    path = job_dir / REPORT_NAME if output is None else Path(os.path.abspath(output))  # noqa: PTH100
    kept = _kept_at(path)
    try:
        found = collect(job_dir, path.parent, kept.facts)
    except OSError as error:
        raise store_error(Path(error.filename or job_dir), error, "read") from error
    pictures, problems = make_pictures(found.pictures, kept.pictures, found.side_px)
    found.data["problems"] += [
        f"{relative_name(found.pictures[key], job_dir)}: this picture is left out: {problem}"
        for key, problem in problems.items()
    ]
    write_bytes(path, render(f"{job_dir.name}: TRIDENT report", found.data, found.facts, pictures))
    return path


def _require_job(job_dir: Path) -> None:
    if not job_dir.exists():
        raise StoreError(f"{printable(str(job_dir))}: no such job directory; name the --job_dir of a run")
    if not job_dir.is_dir():
        raise StoreError(f"{printable(str(job_dir))}: is a file, not a job directory; name the --job_dir of a run")
    try:
        known = any((job_dir / mark).exists() for mark in _MARKS) or bool(find_grids(job_dir, None))
    except OSError as error:
        raise store_error(job_dir, error, "read") from error
    if not known:
        raise StoreError(
            f"{printable(str(job_dir))}: holds no run and no output of one; name the --job_dir of a run, or run a job "
            "into it first"
        )


def _kept_at(path: Path) -> Kept:
    """What the file at `path` can lend.

    Raises:
        StoreError: it is there and is not a report, or cannot be read.
    """
    try:
        if path.is_dir():
            raise StoreError(f"{path}: is a folder; name a file with --output")
        if path.exists() and path.stat().st_size > 0 and not is_report(path):
            raise StoreError(f"{path}: exists and is not a report of trident; name another file with --output")
    except OSError as error:
        raise store_error(path, error, "read") from error
    return read_kept(path) if path.exists() else Kept()
