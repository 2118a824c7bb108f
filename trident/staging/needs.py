"""Which slides the running drivers still need: their copies are not given up.

Each driver keeps a small file with the keys of its slides and holds its lock while it lives. A file that is not locked
is that of a dead driver, and says nothing.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from trident.staging.flocks import FileLock
from trident.staging.folder import needs_dir

_MAX_BYTES = 1 << 22


class Needs:
    """The slides that this driver needs. Every method is called under the guard.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.keys: set[str] = set()
        self.path = needs_dir(root) / secrets.token_hex(8)
        self._lock = FileLock(self.path)
        if not self._lock.try_exclusive():
            raise OSError(f"{self.path}: a name drawn at random is in use")

    def add(self, key: str) -> None:
        """Need one more."""
        if key not in self.keys:
            self._write(self.keys | {key})

    def remove(self, key: str) -> None:
        """Need one less."""
        if key in self.keys:
            self._write(self.keys - {key})

    def close(self) -> None:
        """Need nothing any more."""
        self.path.unlink(missing_ok=True)
        self._lock.close()

    def _write(self, keys: set[str]) -> None:
        # In place: a driver that dies in the middle of it is a dead driver.
        content = "".join(f"{key}\n" for key in sorted(keys)).encode("ascii")
        os.pwrite(self._lock.handle, content, 0)
        os.ftruncate(self._lock.handle, len(content))
        self.keys = keys


def needed_keys(root: Path) -> set[str]:
    """Keys of the slides that any living driver needs; what dead drivers left is removed. Called under the guard.

    Raises:
        OSError: it cannot be found out.
    """
    keys: set[str] = set()
    for path in needs_dir(root).iterdir():
        lock = FileLock(path)
        try:
            if lock.try_shared():
                path.unlink(missing_ok=True)
            else:
                keys.update(os.pread(lock.handle, _MAX_BYTES, 0).decode("ascii", "replace").split())
        finally:
            lock.close()
    return keys
