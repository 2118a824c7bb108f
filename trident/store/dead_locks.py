"""`--clear_dead_locks`: remove the locks that crashed writers left behind, and no others."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from trident.errors import StoreError
from trident.store.guards import folder_guard
from trident.store.layout import PRIVATE_DIR
from trident.store.lock_holder import LOCK_SUFFIX, LockHolder, read_lock
from trident.store.processes import Liveness

logger = logging.getLogger(__name__)

_OUTPUT_SUFFIXES = {".h5", ".geojson", ".jpg", ".jpeg", ".png", ".json", ".txt", ".md", ".tif", ".tiff", ".csv"}
"""Only locks of such files are looked at: a job directory may lie in a folder with, say, somebody's `uv.lock`."""


def clear_dead_locks(
    job_dir: Path, max_age_hours: float, is_valid_output: Callable[[Path], bool]
) -> list[tuple[Path, str]]:
    """Remove dead locks anywhere under `job_dir`; return what was removed and why.

    A lock goes where its output exists and is valid, where its writer is dead on this host, or where it is unreadable
    or another host's and older than `max_age_hours`. A lock that its writer still refreshes always stays, also beside
    a valid output: that is being replaced.

    Args:
        job_dir: searched with all folders in it, links not followed; a missing one has no locks.
        max_age_hours: counted from the last refresh where the writer refreshes its lock, else from its making.
        is_valid_output: asked about an existing output file; may raise StoreError for "no".

    Raises:
        StoreError: a folder cannot be guarded.
    """
    removed = []
    for lock in _locks_under(job_dir):
        with folder_guard(lock.parent):
            reason = _why_dead(lock, max_age_hours, is_valid_output)
            if reason is None:
                continue
            try:
                lock.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s: this dead lock cannot be removed (%s); delete it by hand", lock, error.strerror)
                continue
        logger.info("%s: removed, %s", lock, reason)
        removed.append((lock, reason))
    return removed


def _locks_under(job_dir: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(job_dir):
        subfolders[:] = sorted(name for name in subfolders if name != PRIVATE_DIR)
        for name in sorted(names):
            path = Path(folder, name)
            is_output_lock = name.endswith(LOCK_SUFFIX) and path.with_suffix("").suffix.lower() in _OUTPUT_SUFFIXES
            if is_output_lock and path.is_file() and not path.is_symlink():
                yield path


def _why_dead(lock: Path, max_age_hours: float, is_valid_output: Callable[[Path], bool]) -> str | None:
    holder = read_lock(lock)
    if holder is None or holder.is_in_use:
        return None
    if holder.state is Liveness.DEAD:
        return f"its writer is dead: {holder.describe()}"
    if _is_valid(_output_of(lock, holder), is_valid_output):
        return "its output exists and is valid"
    if holder.state is Liveness.UNKNOWN and holder.silent_s > max_age_hours * 3600:
        what = f"{holder.describe()} cannot be asked from here" if holder.is_readable else "it is unreadable"
        return f"{what}, and it is {holder.silent_for()} old"
    return None


def _output_of(lock: Path, holder: LockHolder) -> Path:
    """The lock's name tells it, except where it had to be cut: then the content does."""
    if holder.output is not None and Path(holder.output).name == holder.output:
        return lock.with_name(holder.output)
    return lock.with_suffix("")


def _is_valid(output: Path, is_valid_output: Callable[[Path], bool]) -> bool:
    try:
        return output.is_file() and is_valid_output(output)
    except StoreError:
        return False
