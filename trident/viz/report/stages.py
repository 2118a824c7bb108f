"""Which stages a job directory has, and how each slide stands with each: files first, then what states say."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trident.store.layout import JobLayout
from trident.store.timings import shares
from trident.viz.report.grids import lies_in
from trident.viz.report.values import listing, mapping, number, text

SEGMENTATION, COORDS, PATCH_FEATURES, SLIDE_FEATURES = "segmentation", "coords", "patch_features", "slide_features"
MAX_EARLIER_ERRORS = 5

_COORDS_SUFFIX = "_patches.h5"


@dataclass(frozen=True)
class StageColumn:
    """One stage of one patch grid.

    Attributes:
        task: its key in state files, such as `patch_features:uni_v1`.
        grid: None for the segmentation.
        outputs: names of the slides whose output is there.
    """

    task: str
    grid: str | None
    outputs: frozenset[str]

    @property
    def kind(self) -> str:
        """`segmentation`, `coords`, `patch_features` or `slide_features`."""
        return self.task.partition(":")[0]

    @property
    def encoder(self) -> str | None:
        """Name of the encoder, if the stage has one."""
        return self.task.partition(":")[2] or None


def due_tasks(states: Iterable[Mapping[str, Any]], grids: list[str]) -> frozenset[str]:
    """Tasks of states whose record is about the newest grid, the first one: they are due there for every slide."""
    return frozenset(
        str(task)
        for state in states
        for task, entry in mapping(state.get("tasks")).items()
        if grids and _grid_of(mapping(entry), grids) == grids[0]
    )


def find_stages(
    job_dir: Path, grids: Sequence[str], tasks: Iterable[str], due: Collection[str] | None = None
) -> list[StageColumn]:
    """Every stage that left a file, and every one of `tasks`, in the order of the pipeline.

    Args:
        job_dir: the job directory.
        grids: its patch grids, the newest first.
        tasks: keys of state files.
        due: those of them that the newest grid is to have, whatever other grids have; None: all.
    """
    keys = sorted(set(tasks))
    elsewhere = {path.name for grid in grids[1:] for path in JobLayout(job_dir, grid).grid_dir.glob("*features_*")}
    outlines = _slides(job_dir / "contours_geojson", ".geojson")
    columns = [StageColumn(SEGMENTATION, None, outlines)]
    if not grids:  # whatever was tried left no folder, and its errors must still show
        return columns + [StageColumn(key, None, frozenset()) for key in keys if key != SEGMENTATION]
    for number_of_grid, grid in enumerate(grids):
        layout = JobLayout(job_dir, grid)
        columns.append(StageColumn(COORDS, grid, _slides(layout.grid_dir / "patches", _COORDS_SUFFIX)))
        for kind, prefix in ((PATCH_FEATURES, "features_"), (SLIDE_FEATURES, "slide_features_")):
            # A folder's name says which encoder, up to the slash of a name such as `timm/resnet18`.
            folders = {_folder(layout, key).name: key for key in keys if key.startswith(f"{kind}:")}
            on_disk = {path.name for path in layout.grid_dir.glob(f"{prefix}*") if path.is_dir()}
            # An encoder that has no folder yet is due in the newest grid, which comes first.
            awaited = {name for name, key in folders.items() if due is None or key in due or name not in elsewhere}
            for name in sorted(on_disk | (awaited if number_of_grid == 0 else set())):
                task = folders.get(name, f"{kind}:{name.removeprefix(prefix)}")
                columns.append(StageColumn(task, grid, _slides(layout.grid_dir / name, ".h5")))
    return columns


def cell_of(
    column: StageColumn, slide: str, tasks: Mapping[str, Any], grids: list[str], running: bool
) -> dict[str, Any]:
    """How one slide stands with one stage, JSON-ready.

    `status` is `done`, `error`, `running`, `interrupted` (it began, and no run is at work), `missing` (done, and its
    file is gone) or `waiting`.

    Args:
        column: the stage.
        slide: its name.
        tasks: the slide's state.
        grids: every grid of the job, that of the newest job first.
        running: whether a run is at work.
    """
    there = slide in column.outputs
    entry = mapping(tasks.get(column.task))
    if not entry or (column.grid is not None and _grid_of(entry, grids) != column.grid):
        return {"status": "done" if there else "waiting"}
    status = entry.get("status")
    if status in ("completed", "skipped"):
        shown = "done" if there else "missing"
    elif status == "running":
        shown = "running" if running else "interrupted"
    elif status == "error":
        shown = "error"
    else:
        shown = "done" if there else "waiting"
    attempts = [mapping(attempt) for attempt in listing(entry.get("attempts"))]
    cell: dict[str, Any] = {"status": shown, "seconds": _seconds(attempts), "attempts": len(attempts)}
    cell["message"] = text(entry.get("message"))
    if shown == "error":
        last = text(attempts[-1].get("error")) if attempts else None
        cell["error"] = last or cell["message"] or "it failed without a message; see the log of this stage"
    cell["earlier"] = _earlier_errors(attempts[:-1] if shown == "error" else attempts)
    cell["timings"] = _timings(mapping(entry.get("timings")))
    cell["parts"] = {part: round(share, 3) for part, share in shares(cell["timings"]).items()}
    return {key: value for key, value in cell.items() if value not in (None, [], {})}


def _slides(folder: Path, suffix: str) -> frozenset[str]:
    if not folder.is_dir():
        return frozenset()
    return frozenset(
        path.name.removesuffix(suffix)
        for path in folder.iterdir()
        if path.name.endswith(suffix) and not path.name.startswith(".")
    )


def _folder(layout: JobLayout, task: str) -> Path:
    kind, _, encoder = task.partition(":")
    return layout.patch_features_dir(encoder) if kind == PATCH_FEATURES else layout.slide_features_dir(encoder)


def _grid_of(entry: Mapping[str, Any], grids: list[str]) -> str | None:
    """The grid that a task's record is about: a state file has one record a task, whatever the number of grids."""
    paths = [text(mapping(output).get("path")) for output in mapping(entry.get("outputs")).values()]
    if len(grids) > 1 and entry.get("status") in ("completed", "skipped"):
        having = [grid for grid in grids if any(path and lies_in(path, grid) for path in paths)]
        if having:
            return max(having, key=lambda grid: grid.count(os.sep))  # what lies in `a/b` ends with `b`, too
    return grids[0] if grids else None


def _seconds(attempts: list[Mapping[str, Any]]) -> float | None:
    """Duration of the last attempt that made the output, else of the last that has one."""
    timed = [attempt for attempt in attempts if number(attempt.get("duration_s")) is not None]
    made = [attempt for attempt in timed if attempt.get("result") == "completed"]
    chosen = (made or timed)[-1:]
    return round(float(chosen[0]["duration_s"]), 3) if chosen else None


def _earlier_errors(attempts: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Failures before the present state, the last few, each text once."""
    found: dict[str, dict[str, Any]] = {}
    for attempt in attempts:
        error = text(attempt.get("error"))
        if error:
            times = found.pop(error, {"times": 0})["times"] + 1
            found[error] = {"text": error, "at": text(attempt.get("finished_at")), "times": times}
    return list(found.values())[-MAX_EARLIER_ERRORS:]


def _timings(timings: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by phase, as `trident.store.timings` explains them."""
    return {phase: value for phase, found in timings.items() if (value := number(found)) is not None and value >= 0}
