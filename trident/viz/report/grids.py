"""Which patch grids a job directory has: those that lie in it, and those that `--coords_dir` has put elsewhere."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from trident.store.layout import JobLayout
from trident.viz.report.values import load_object, mapping, text

logger = logging.getLogger(__name__)

_NOT_GRIDS = {"thumbnails", "contours", "contours_geojson", "wsi_states", "runs"}
_MAX_JOBS = 100
"""Job files that are looked at, the newest: with `--overwrite` each run leaves one."""
_MAX_STATES = 64
"""State files that are looked at, taken evenly: reading ten thousand would take longer than what is asked for."""
_MAX_DEPTH = 8
_HEAD_BYTES = 1 << 16
"""Of a job file: its settings come first, and its slides may be a hundred thousand."""
_PARTS = ("features_", "slide_features_")
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


def find_grids(job_dir: Path, newest: str | None) -> list[str]:
    """Patch grids of a job directory; first that of the newest job, which may lie elsewhere or not exist yet.

    Those in the directory itself come by name, and after them those that job files and states name and that are there.
    A folder that cannot be looked into is left out, with a warning.

    Args:
        job_dir: it exists.
        newest: as `--coords_dir` names it.

    Raises:
        OSError: the job directory cannot be listed.
    """
    is_grid = cache(_is_grid)  # several records may name one folder, of which a warning is enough
    found = [folder.name for folder in sorted(job_dir.iterdir()) if _may_be_grid(folder) and is_grid(folder)]
    for grid in (*_of_jobs(job_dir), *_of_states(job_dir, is_grid)):
        if grid not in found and is_grid(job_dir / grid):
            found.append(grid)
    if not newest:
        return found
    first = _normal(newest, job_dir) or newest
    return [*([] if is_grid(job_dir / first) is None else [first]), *(name for name in found if name != first)]


def lies_in(path: str, grid: str) -> bool:
    """Whether an output lies in a grid. The job directory may have moved since: only the end of the path counts."""
    parts = PurePath(grid).parts
    return PurePath(path).parent.parent.parts[-len(parts) :] == parts


def told_unreadable(path: Path, error: OSError) -> bool:
    """Warn of a file or folder that cannot be looked at; False, without a word, where it just is not there."""
    if error.errno in _NOTHING_THERE:
        return False
    logger.warning("%s: left out, because it cannot be looked at (%s)", path, error.strerror)
    return True


def _may_be_grid(folder: Path) -> bool:
    return not folder.name.startswith(".") and folder.name not in _NOT_GRIDS


def _is_grid(folder: Path) -> bool | None:
    """None where that cannot be told; a warning says so."""
    try:
        with os.scandir(folder) as entries:
            return any(
                entry.name.startswith(_PARTS) or (entry.name == "patches" and entry.is_dir()) for entry in entries
            )
    except ValueError:  # no file can have such a name
        return False
    except OSError as error:
        return None if told_unreadable(folder, error) else False


def _of_jobs(job_dir: Path) -> Iterator[str]:
    """The `--coords_dir` of runs."""
    folder = JobLayout(job_dir, "").private_dir / "jobs"
    dated = []
    for name in _names(folder):
        with suppress(OSError):  # removed meanwhile
            dated.append(((folder / name).stat().st_mtime, name))
    for _, name in sorted(dated, reverse=True)[:_MAX_JOBS]:
        settings = _settings_of_job(folder / name)
        given = text(settings.get("coords_dir"))
        if given and (grid := _normal(given, Path(text(settings.get("job_dir")) or job_dir))):
            yield grid


def _of_states(job_dir: Path, is_grid: Callable[[Path], bool | None]) -> Iterator[str]:
    """Where the outputs of slides lie, or lay when the job directory had another place."""
    folder = JobLayout(job_dir, "").states_dir
    names = _names(folder)
    noted: dict[tuple[str, ...], None] = {}
    for name in names[:: max(1, len(names) // _MAX_STATES)][:_MAX_STATES]:
        state, _ = load_object(folder / name)
        for entry in mapping(state.get("tasks")).values():
            for output in mapping(mapping(entry).get("outputs")).values():
                noted[PurePath(text(mapping(output).get("path")) or "").parent.parent.parts] = None
    for parts in noted:
        if ".." in parts:
            continue
        ends = (str(PurePath(*parts[-count:])) for count in range(min(len(parts) - 1, _MAX_DEPTH), 0, -1))
        yield from [end for end in ends if is_grid(job_dir / end)][:1]


def _names(folder: Path) -> list[str]:
    with suppress(OSError):
        return sorted(name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith("."))  # noqa: PTH208
    return []


def _settings_of_job(path: Path) -> Mapping[str, Any]:
    """The settings in a job file, of which no more is read."""
    with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
        start = head.index(":", head.index('"settings"')) + 1
        return mapping(json.JSONDecoder().raw_decode(head[start:].lstrip())[0])
    return {}


def _normal(grid: str, job_dir: Path) -> str | None:
    """A grid of a job as `JobLayout` takes it, one name for each place; None for the job directory itself.

    Args:
        grid: as a user named it.
        job_dir: where the job directory was then.
    """
    place = PurePath(os.path.normpath(grid))
    if place.is_absolute() and place.is_relative_to(os.path.abspath(job_dir)):  # noqa: PTH100 - links stay as they are
        place = place.relative_to(os.path.abspath(job_dir))  # noqa: PTH100
    return str(place) if place.parts else None
