"""What an export has written into a folder, and from what: how it knows what is done, and which files are its own.

Formats such as a bare tensor have no room for a recipe, so it stands beside them, one JSON line a file. A line is
appended before its file gets its final name; it counts only while the file still has the size and time that it states.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from trident.errors import StoreError
from trident.store.atomic import store_error

logger = logging.getLogger(__name__)

JOURNAL_NAME = "_trident_export.jsonl"

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Entry:
    """A file as it was written.

    Attributes:
        source: digest of what it was made from.
        n_bytes: its size.
        modified_ns: its time.
    """

    source: str
    n_bytes: int
    modified_ns: int


class Journal:
    """The journal of one folder. Several processes may write to it at once."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; lines that are damaged are passed over.

        Raises:
            StoreError: it cannot be read.
        """
        self._path = folder / JOURNAL_NAME
        self._entries: dict[str, list[Entry]] = {}
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                raise StoreError(
                    f"{self._path}: too large for a journal of exports; delete it or take another --output"
                )
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise store_error(self._path, error, "read") from error
        for line in lines:
            self._read(line)

    def is_done(self, path: Path, source: str) -> bool:
        """Whether a file of this folder stands as it was written, from `source`."""
        found = _stamp(path)
        return any(
            (entry.n_bytes, entry.modified_ns) == found and entry.source == source
            for entry in self._entries.get(path.name, ())
        )

    def is_own(self, path: Path) -> bool:
        """Whether a file of this name was ever written by an export, so that another may replace it."""
        return path.name in self._entries

    def note(self, name: str, temporary: Path, source: str) -> None:
        """Note the file `temporary`, which is about to be called `name`.

        Raises:
            StoreError: the journal cannot be written.
        """
        try:
            stamp = _stamp(temporary)
            if stamp is None:  # nothing was written; whoever renames it says so
                return
            values = {"file": name, "source": source, "bytes": stamp[0], "modified_ns": stamp[1]}
            # In one write, so that lines of several processes do not mix; begun anew, as the last line may be torn.
            line = b"\n" + json.dumps(values).encode() + b"\n"
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise store_error(self._path, error) from error
        self._entries.setdefault(name, []).append(Entry(source, *stamp))

    def _read(self, line: bytes) -> None:
        try:
            value = json.loads(line) if line else None
            if isinstance(value, dict):
                entry = Entry(str(value["source"]), int(value["bytes"]), int(value["modified_ns"]))
                self._entries.setdefault(str(value["file"]), []).append(entry)
        except (ValueError, KeyError, TypeError, RecursionError):
            logger.debug("%s: a line is damaged and passed over", self._path)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
