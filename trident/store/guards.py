"""Short mutual exclusion between processes, by `flock` on a folder or on a small file that is never removed.

A guard is held for the milliseconds of one read-modify-write. It vanishes with its process, so a crash leaves nothing
to clean up. Guards must not be nested: each is taken, used and given back.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trident.errors import StoreError
from trident.store.atomic import store_error

logger = logging.getLogger(__name__)

WAIT_S = 120.0
"""How long a guard is waited for; its holder must be suspended when this is not enough."""

_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF, errno.EISDIR}
_warned_folders: set[Path] = set()


@contextmanager
def file_guard(path: Path) -> Iterator[bool]:
    """Hold the guard file `path`, made where it is missing.

    Yields:
        Whether the guard is really held: False on a file system without `flock` (some parallel ones).

    Raises:
        StoreError: the guard file cannot be made, or another process keeps the guard for minutes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise store_error(path, error) from error
    try:
        yield wait_for_flock(handle, path)
    finally:
        os.close(handle)


@contextmanager
def folder_guard(folder: Path) -> Iterator[bool]:
    """The guard of everything that is read, changed and written back in one folder.

    The folder itself is locked, so that no file of ours stands among outputs that others list. Network file systems
    that lock only writable files have no such guard.

    Yields:
        Whether the guard is really held.

    Raises:
        StoreError: the folder cannot be made or opened, or another process keeps the guard for minutes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise store_error(folder, error) from error
    try:
        yield wait_for_flock(handle, folder)
    finally:
        os.close(handle)


def wait_for_flock(handle: int, path: Path) -> bool:
    """Take an exclusive `flock` on an open file; False where the file system has none.

    Raises:
        StoreError: not to be had within `WAIT_S`.
    """
    deadline = time.monotonic() + WAIT_S
    pause_s = 0.001
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                _warn_once(path.parent, error)
                return False
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES, errno.EINTR}:
                raise store_error(path, error) from error
        if time.monotonic() > deadline:
            raise StoreError(
                f"{path}: another process has kept this guard for over {WAIT_S:.0f} s; "
                "look for a suspended trident process that works on this job directory"
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def _warn_once(folder: Path, error: OSError) -> None:
    if folder not in _warned_folders:
        _warned_folders.add(folder)
        logger.warning(
            "%s: this file system has no flock (%s); run only one process on this job directory at a time",
            folder,
            error.strerror,
        )
