"""One background thread that shows, by the locks' time stamps, that this process still holds them."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)

REFRESH_S = 15.0

_mutex = threading.Lock()
_held: dict[Path, int] = {}
_thread: threading.Thread | None = None


def add(path: Path, inode: int) -> None:
    """Refresh the lock file `path` from now on, as long as it is the one with this inode."""
    global _thread  # noqa: PLW0603 - one thread a process is the point
    with _mutex:
        _held[path] = inode
        if _thread is None:
            _thread = threading.Thread(target=_run, name="lock-refresher", daemon=True)
            _thread.start()


def remove(path: Path) -> None:
    """Stop refreshing `path`."""
    with _mutex:
        _held.pop(path, None)


def held() -> dict[Path, int]:
    """Every lock file that is held, with its inode."""
    with _mutex:
        return dict(_held)


def refresh_all() -> None:
    """Refresh every lock that is held, now."""
    for path, inode in held().items():
        try:
            if path.stat().st_ino != inode:
                raise FileNotFoundError(f"{path} is another file now")
            os.utime(path)
        except FileNotFoundError:
            with _mutex:
                lost = _held.pop(path, None) is not None  # else it was given back a moment ago
            if lost:
                logger.warning("%s: this lock was removed while it was held; another run may do the same work", path)
        except OSError as error:
            logger.warning("%s: this lock cannot be refreshed (%s)", path, error.strerror)


def _run() -> None:
    while True:
        time.sleep(REFRESH_S)
        refresh_all()


def _forget_after_fork() -> None:
    """A forked child holds none of its parent's locks, and has no thread."""
    global _mutex, _thread  # the parent's mutex may be in any state
    _mutex, _thread = threading.Lock(), None
    _held.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
