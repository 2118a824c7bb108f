"""Where sockets and leases of this user's runs lie: a private folder on this host's own disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trident.errors import ExecutorError

_ALIVE = "alive"
_LONGEST_BASE = 76
"""Bytes; a socket's whole path has at most 107, and ours adds up to 30."""


def runtime_dir() -> Path:
    """`$XDG_RUNTIME_DIR/trident`, or `trident-<uid>` in the folder for temporary files; of this user alone, mode 0700.

    Raises:
        ExecutorError: it cannot be made, or somebody else could write into it.
    """
    base = next((base for base in _candidates() if len(os.fsencode(base)) <= _LONGEST_BASE), Path())
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        found = base.lstat()
    except OSError as error:
        raise ExecutorError(
            f"{base}: cannot be made ({error.strerror}); set TMPDIR or XDG_RUNTIME_DIR to a folder of your own"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ExecutorError(
            f"{base}: others could write here (it must be your own folder, mode 0700); mend or remove it, "
            "or set TMPDIR or XDG_RUNTIME_DIR to a folder of your own"
        )
    return base


def _candidates() -> Iterator[Path]:
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir():  # batch systems hand on the variable to nodes that have no such folder
        yield Path(given) / "trident"
    yield Path(tempfile.gettempdir()) / f"trident-{os.getuid()}"
    yield Path("/tmp") / f"trident-{os.getuid()}"


class RunDir:
    """A folder for the sockets of one run; what killed runs left is removed on the way."""

    def __init__(self) -> None:
        base = runtime_dir()
        with contextlib.suppress(FileNotFoundError):  # another run cleans up at the same moment
            _remove_abandoned(base)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix="run-", dir=base))
            self._handle = os.open(self.path / _ALIVE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            if os.fstat(self._handle).st_nlink:
                break
            os.close(self._handle)  # another run took it for abandoned in the moment before it was locked

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob("run-*"):
        try:
            handle = os.open(folder / _ALIVE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # being made at this moment, or being removed
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
