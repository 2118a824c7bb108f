"""`flock` on small files: never waited for (the guard: briefly), and given back by the kernel when a process dies."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trident.staging.problems import NotStagedError

GUARD_WAIT_S = 10.0
"""A guard is held for milliseconds; its holder must be suspended when this is not enough."""

_TAKEN = {errno.EWOULDBLOCK, errno.EACCES}


class FileLock:
    """The `flock` of one file, through a descriptor of its own: two in one process exclude each other too.

    Raises:
        OSError: the file cannot be made or opened, or (by the methods) its file system has no `flock`.
    """

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._process = os.getpid()

    def try_exclusive(self) -> bool:
        """Take the lock for this one alone; False where anybody has it."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take the lock together with other readers, or turn an exclusive one into that; False where it is taken."""
        return self._try(fcntl.LOCK_SH)

    def close(self) -> None:
        """Give the lock back. Safe to call twice."""
        handle, self.handle = self.handle, -1
        if handle < 0:
            return
        try:
            # A forked child shares the lock: closing its own descriptor must not give back the parent's. The parent
            # gives it back in words, because the child's descriptor would keep it otherwise.
            if os.getpid() == self._process:
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)

    def _try(self, kind: int) -> bool:
        while True:
            try:
                fcntl.flock(self.handle, kind | fcntl.LOCK_NB)
                return True
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno in _TAKEN:
                    return False
                raise


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """Be the only one who takes slots or gives them up, for the moment of looking and deciding.

    Every lock of a slot is taken under the guard and without waiting, so nobody can wait for anybody in a circle.

    Raises:
        NotStagedError: another process keeps the guard.
        OSError: the file cannot be made, or its file system has no `flock`.
    """
    lock = FileLock(path)
    try:
        deadline = time.monotonic() + GUARD_WAIT_S
        pause_s = 0.001
        while not lock.try_exclusive():
            if time.monotonic() > deadline:
                raise NotStagedError(f"{path}: another process has kept this lock for over {GUARD_WAIT_S:.0f} s")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.02)
        yield
    finally:
        lock.close()
