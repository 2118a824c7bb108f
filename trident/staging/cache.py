"""A cache of N slots for slides on slow storage, shared by all processes of this user on this host.

A task asks for its slide's copy and never waits: it gets the slot that holds it, or fills an empty one, or one whose
slide nobody needs, or reads the slow original. Every lock is a `flock`, so a process that is killed leaves nothing
locked, and half a copy has no complete record and counts as nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from trident.errors import StoreError
from trident.staging.copying import Check, CopyFile, copy_file, copy_slide, go_on
from trident.staging.files import slide_files
from trident.staging.flocks import FileLock, guard
from trident.staging.folder import cache_root, guard_path, prepare_root, slots_dir
from trident.staging.needs import Needs, needed_keys
from trident.staging.problems import BeingCopiedError, NoSlotError, NotStagedError, full_disk_as_no_room
from trident.staging.slots import Slot, SlotRecord, all_slots, is_fresh

logger = logging.getLogger(__name__)

_Unwanted = Callable[[Slot, SlotRecord | None], bool]


class Lease:
    """A copy that stays as it is until the lease is closed."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        """The slide's copy: what a reader is given."""
        self._lock = lock

    def close(self) -> None:
        """Give the copy back. Safe to call twice."""
        self._lock.close()


@dataclass(frozen=True)
class SlideCache:
    """The cache in one folder. Light: it may be made anew in every process.

    Attributes:
        folder: the folder that the user named (`--wsi_cache`); the cache makes a hidden one in it and touches no other.
        slots: slides in the cache at once (`--cache_batch_size`).
        copy: copies one file.
    """

    folder: Path
    slots: int
    copy: CopyFile = copy_file

    def prepare(self) -> Path:
        """Make the cache's own folder, or recognise it; return it.

        Raises:
            SettingsError: the folder cannot be used; the message says why and what to do.
        """
        return prepare_root(self.folder)

    def is_inside(self, path: Path) -> bool:
        """Whether a path lies in the cache itself."""
        return path.is_relative_to(cache_root(self.folder))

    def acquire(self, source: Path, needs: Needs | None = None, check: Check = go_on) -> Lease:
        """A copy of a slide, made now where there is none yet.

        Args:
            source: absolute path of the slide.
            needs: of a driver that will need the copy after the lease is closed.
            check: called every few megabytes while the slide is copied; may raise `StoppedError`.

        Raises:
            NotStagedError: there is no copy to be had; its class and message say why.
            SettingsError: the cache folder cannot be used.
            OSError, StoreError: the slide cannot be read, or the cache not be written.
        """
        root = self.prepare()
        with full_disk_as_no_room():
            return self._acquire(root, source, needs, check)

    def evict(self, source: Path) -> bool:
        """Remove the copy of a slide unless a driver needs it.

        Returns:
            False where somebody reads it: try again later.

        Raises:
            NotStagedError, OSError: the cache cannot be used or the copy not be removed.
        """
        root, key = cache_root(self.folder), key_of(source)
        return not self._remove(root, lambda slot, record: record is not None and record.key == key)

    def sweep(self, keep: Collection[Path] = ()) -> None:
        """Remove what no driver needs and nobody reads: copies, halves of copies, and slots above the number of slots.

        Args:
            keep: slides whose copies stay for now, where they are whole.

        Raises:
            NotStagedError, OSError: the cache cannot be used or a copy not be removed.
        """
        keys = {key_of(source) for source in keep}

        def unwanted(slot: Slot, record: SlotRecord | None) -> bool:
            return record is None or not record.complete or record.key not in keys or slot.index >= self.slots

        self._remove(cache_root(self.folder), unwanted)

    def new_needs(self) -> Needs:
        """Register a driver.

        Raises:
            SettingsError, NotStagedError, OSError: the cache cannot be used.
        """
        root = self.prepare()
        with guard(guard_path(root)):
            return Needs(root)

    def drop(self, needs: Needs, source: Path | None = None) -> None:
        """A driver does not need a slide any more, or (None) does not need anything: it ends.

        Raises:
            NotStagedError, OSError: the cache cannot be used.
        """
        with guard(guard_path(cache_root(self.folder))):
            if source is None:
                needs.close()
            else:
                needs.remove(key_of(source))

    def _acquire(self, root: Path, source: Path, needs: Needs | None, check: Check) -> Lease:
        key = key_of(source)
        fresh = self._fresh_copy(root, key)  # the slow storage is asked before anybody is kept waiting
        with guard(guard_path(root)):
            found = self._choose(root, key, fresh)
            try:
                if needs is not None:
                    needs.add(key)
                if isinstance(found, Lease):
                    return found
                slot, lock = found
                _announce(slot, SlotRecord(key, os.fspath(source), source.name, complete=False))
            except BaseException:
                (found if isinstance(found, Lease) else found[1]).close()
                raise
        return self._fill(root, slot, lock, source, check)

    def _fresh_copy(self, root: Path, key: str) -> SlotRecord | None:
        """The record of a whole copy that is still the slide's, if there is one."""
        for slot in all_slots(slots_dir(root), 0):
            record = slot.read()
            if record is not None and record.key == key and record.complete and slot.holds(record):
                return record if is_fresh(record) else None
        return None

    def _choose(self, root: Path, key: str, fresh: SlotRecord | None) -> Lease | tuple[Slot, FileLock]:
        """The copy itself, or a slot to fill with its lock held alone. Called under the guard."""
        slots = [(slot, slot.read()) for slot in all_slots(slots_dir(root), self.slots)]
        for slot, record in slots:
            if record is None or record.key != key:
                continue
            lock = FileLock(slot.lock)
            if record == fresh and lock.try_shared():
                return Lease(slot.slide_dir / record.name, lock)
            if not lock.try_exclusive():
                lock.close()
                raise BeingCopiedError("its copy is being made, or an outdated one is still being read")
            if slot.index < self.slots:
                return slot, lock
            lock.close()
        needed = needed_keys(root)
        slots.sort(key=lambda pair: _worth(pair[1]))
        for slot, record in slots:
            if slot.index >= self.slots or (record is not None and record.complete and record.key in needed):
                continue
            lock = FileLock(slot.lock)
            if lock.try_exclusive():
                return slot, lock
            lock.close()
        raise NoSlotError(f"all {self.slots} slots hold slides that are read or still needed")

    def _fill(self, root: Path, slot: Slot, lock: FileLock, source: Path, check: Check) -> Lease:
        """Copy a slide into a slot whose lock is held alone, and go on as one of its readers."""
        try:
            started = time.monotonic()
            slot.clear_content()
            files = slide_files(source)
            copy_slide(files, slot.incoming, self.copy, check)
            slot.complete(SlotRecord.of_copy(key_of(source), files))
            with guard(guard_path(root)):  # turning the lock gives it back for a moment
                if not lock.try_shared():
                    raise NotStagedError(f"{slot.lock}: somebody has taken this lock")
        except BaseException:
            _clear(slot)
            lock.close()
            raise
        seconds = time.monotonic() - started
        logger.info("%s: copied to the cache (%.1f MB in %.1f s)", source, files.size_bytes / 1e6, seconds)
        return Lease(slot.slide_dir / source.name, lock)

    def _remove(self, root: Path, unwanted: _Unwanted) -> int:
        """Empty the slots that are `unwanted`, except what drivers need and what is read; how many are read."""
        taken: list[tuple[Slot, FileLock]] = []
        read = 0
        try:
            with guard(guard_path(root)):
                needed = needed_keys(root)
                for slot in all_slots(slots_dir(root), 0):
                    record = slot.read()
                    if not unwanted(slot, record) or (record is not None and record.complete and record.key in needed):
                        continue
                    lock = FileLock(slot.lock)
                    if lock.try_exclusive():
                        taken.append((slot, lock))
                        slot.forget()
                    else:
                        lock.close()
                        read += 1
            for slot, _ in taken:
                slot.clear()
        finally:
            for _, lock in taken:
                lock.close()
        return read


def key_of(source: Path) -> str:
    """Sixteen hexadecimal digits that stand for the path of a slide: two of one name in two folders are two slides."""
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:16]


def _announce(slot: Slot, record: SlotRecord) -> None:
    try:
        slot.announce(record)
    except (OSError, StoreError):  # not even room for a line: what the slot held is worth nothing, so it goes first
        slot.clear()
        slot.announce(record)


def _clear(slot: Slot) -> None:
    """Empty a slot after a failure; what stays behind has no complete record."""
    try:
        slot.clear()
    except OSError as error:
        logger.warning("%s: what is left of a copy cannot be removed (%s)", slot.folder, error.strerror)


def _worth(record: SlotRecord | None) -> int:
    """Empty slots are taken first, whole copies last."""
    return 0 if record is None else 1 + record.complete
