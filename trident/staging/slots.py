"""One slot: a folder with the copy of one slide and a record of what it is; its lock file lies beside it.

Whoever changes a slot holds its lock alone; whoever reads the copy shares it. A process that dies leaves a slot without
lock whose record is not complete: it counts as empty.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from trident.staging.files import SlideFiles, SourceFile, is_unchanged
from trident.store import atomic

_NAME = re.compile(r"^\d{4,6}$")
_MAX_RECORD_BYTES = 1 << 20
_EMPTY_SLOTS = 8
"""Empty slots that are offered at once; the lock of the first may still be held by whoever is emptying it."""


@dataclass(frozen=True)
class SlotRecord:
    """What a slot holds."""

    key: str
    """Stands for the source's path."""
    source: str
    """Absolute path of the slide on the slow storage, for people."""
    name: str
    """File or folder name of the slide."""
    complete: bool
    """Whether the copy is whole."""
    size_bytes: int = 0
    witnesses: tuple[SourceFile, ...] = ()
    """Files by which a change is recognised."""

    @classmethod
    def of_copy(cls, key: str, slide: SlideFiles) -> SlotRecord:
        """The record of a whole copy."""
        source = str(slide.folder / slide.name)
        return cls(key, source, slide.name, True, slide.size_bytes, slide.witnesses)


@dataclass(frozen=True)
class Slot:
    """Paths of one slot, by its number."""

    slots_dir: Path
    index: int

    @property
    def folder(self) -> Path:
        """Everything that is removed with the slide."""
        return self.slots_dir / f"{self.index:04d}"

    @property
    def lock(self) -> Path:
        """Lock file; it is never removed."""
        return self.slots_dir / f"{self.index:04d}.lock"

    @property
    def incoming(self) -> Path:
        """Files that are being copied."""
        return self.folder / "incoming"

    @property
    def slide_dir(self) -> Path:
        """Files that are whole."""
        return self.folder / "slide"

    @property
    def _record(self) -> Path:
        return self.folder / "slot.json"

    def read(self) -> SlotRecord | None:
        """What the slot holds; None where it is empty or its record is damaged.

        Raises:
            OSError: it cannot be looked at.
        """
        try:
            with self._record.open("rb") as file:
                value = json.loads(file.read(_MAX_RECORD_BYTES))
            record = SlotRecord(**{**value, "witnesses": tuple(SourceFile(**entry) for entry in value["witnesses"])})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return record if _is_sound(record) else None

    def announce(self, record: SlotRecord) -> None:
        """Say, before it is copied, what the slot is going to hold. Quick: nothing is flushed to disk.

        Raises:
            OSError, StoreError: it cannot be written.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        temp = atomic.begin(self._record)
        temp.write_text(_as_json(record), encoding="ascii")
        temp.replace(self._record)

    def complete(self, record: SlotRecord) -> None:
        """Say that what was copied to `incoming` is the whole slide.

        Raises:
            OSError, StoreError: it cannot be written.
        """
        self.incoming.rename(self.slide_dir)
        atomic.write_text(self._record, _as_json(record))

    def holds(self, record: SlotRecord) -> bool:
        """Whether the files of a complete record are there, as large as they should be."""
        try:
            return all((self.slide_dir / file.rel_path).stat().st_size == file.size_bytes for file in record.witnesses)
        except OSError:
            return False

    def forget(self) -> None:
        """Remove the record: from now on the slot counts as empty, whatever happens next.

        Raises:
            OSError: it cannot be removed.
        """
        self._record.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the record, then everything else in the slot.

        Raises:
            OSError: something cannot be removed.
        """
        if self.folder.is_dir():
            self.forget()
            shutil.rmtree(self.folder)

    def clear_content(self) -> None:
        """Remove everything in the slot but its record.

        Raises:
            OSError: something cannot be removed.
        """
        for path in self.folder.iterdir():
            if path != self._record:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def all_slots(slots_dir: Path, count: int) -> list[Slot]:
    """The slots that are there, by number, and a few of the first `count` that are not.

    Raises:
        OSError: the folder cannot be listed.
    """
    there = {int(path.name): path for path in slots_dir.iterdir() if _NAME.match(path.name)}
    empty = islice((index for index in range(count) if index not in there), _EMPTY_SLOTS)
    ours = (index for index, path in there.items() if not path.is_symlink())
    return [Slot(slots_dir, index) for index in sorted({*ours, *empty})]


def is_fresh(record: SlotRecord) -> bool:
    """Whether the source is still as it was when it was copied. Asks the slow storage.

    Raises:
        OSError: the source cannot be looked at.
    """
    return is_unchanged(Path(record.source).parent, record.witnesses)


def _as_json(record: SlotRecord) -> str:
    return json.dumps(asdict(record), indent=1)  # ASCII: a name that is no text is escaped


def _is_sound(record: SlotRecord) -> bool:
    """Whether the fields are what they should be: the file may have been damaged."""
    texts = (record.key, record.source, record.name, *(file.rel_path for file in record.witnesses))
    numbers = [number for file in record.witnesses for number in (file.size_bytes, file.mtime_ns)]
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in (*numbers, record.size_bytes))
        and type(record.complete) is bool
        and Path(record.name).name == record.name != ".."
    )
