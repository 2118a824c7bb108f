"""Copy a slide's files into an empty folder, and be sure that they are whole and still the slide's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from trident.staging.files import SlideFiles, SourceFile, is_unchanged
from trident.staging.problems import NoRoomError, NotStagedError

Check = Callable[[], None]
"""Called every few megabytes; raises `StoppedError` to end the copy."""

CopyFile = Callable[[Path, Path, Check], None]
"""Called with (source, target, check): makes the file `target` with the content of `source`."""

_CHUNK_BYTES = 8 << 20
_FLUSH_EACH = 256
"""Up to so many files are flushed to disk one by one; of more (a Zarr store) the whole disk's buffers are, once."""


def go_on() -> None:
    """The `Check` of a copy that nobody stops."""


def copy_file(source: Path, target: Path, check: Check) -> None:
    """Copy the content of one file; the copy is readable by this user alone.

    Raises:
        OSError: it cannot be read or written.
        StoppedError: from `check`.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as writer, source.open("rb", buffering=0) as reader:
        while count := reader.readinto(buffer):
            check()
            writer.write(buffer[:count])


def copy_slide(slide: SlideFiles, into: Path, copy: CopyFile, check: Check) -> None:
    """Copy all files of a slide into the folder `into`, which is made, and flush them to disk.

    Raises:
        NoRoomError: it does not fit on the disk.
        NotStagedError: a file changed while it was copied.
        StoppedError: from `check`.
        OSError: a file cannot be read or written; the disk may have become full meanwhile.
    """
    free_bytes = shutil.disk_usage(into.parent).free
    if slide.size_bytes > free_bytes:
        raise NoRoomError(f"it takes {slide.size_bytes:,} bytes, and {free_bytes:,} are free in {into.parent}")
    into.mkdir(mode=0o700)
    flush_each = len(slide.files) <= _FLUSH_EACH
    for file in slide.files:
        check()
        _copy_one(slide.folder, file, into, copy, check, flush=flush_each)
    if not flush_each:
        os.sync()
    if not is_unchanged(slide.folder, slide.files):
        raise NotStagedError(f"{slide.folder / slide.name}: it changed while it was copied")


def _copy_one(folder: Path, file: SourceFile, into: Path, copy: CopyFile, check: Check, *, flush: bool) -> None:
    target = into / file.rel_path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy(folder / file.rel_path, target, check)
    handle = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_size != file.size_bytes:
            raise NotStagedError(f"{folder / file.rel_path}: it changed while it was copied")
        if flush:
            os.fsync(handle)
    finally:
        os.close(handle)
