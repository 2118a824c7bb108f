"""Files appear whole or not at all: write beside, flush to disk, rename.

The temporary name is hidden, short (a final name may use all 255 bytes), keeps the final suffix (libraries choose a
format by it), and says which process writes it, so that what a killed process leaves behind is recognised and removed.
This is also the one place where an `OSError` of a write becomes a `StoreError`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trident.errors import StoreError
from trident.store.processes import Liveness, ProcessIdentity, current_process, liveness

logger = logging.getLogger(__name__)

FOREIGN_ORPHAN_AGE_S = 24 * 3600.0
"""After this long without a write, another host's temporary file counts as left behind."""

_TEMP_NAME = re.compile(
    r"^\..*\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>[0-9a-f]*)-[0-9a-f]{8}\.tmp(\.[^.]*)?$", re.DOTALL
)
_ADVICE = {
    errno.ENOSPC: "free some space on this disk and run again",
    errno.EDQUOT: "your quota on this disk is used up; free some space and run again",
    errno.EFBIG: "the file is larger than this file system or account allows",
    errno.EACCES: "make the folder writable or choose another --job_dir",
    errno.EPERM: "make the folder writable or choose another --job_dir",
    errno.EROFS: "the disk is mounted read-only; choose another --job_dir",
    errno.ENAMETOOLONG: "shorten the slide's file name",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away",
    errno.EEXIST: "a file stands where a folder is needed; move it away",
    errno.ELOOP: "a link stands where this file belongs; remove it",
    errno.EISDIR: "a folder stands where this file belongs; move it away",
}
_NO_FOLDER_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}

_open_temps: set[Path] = set()
os.register_at_fork(after_in_child=_open_temps.clear)


def store_error(path: Path, error: OSError, action: str = "written") -> StoreError:
    """Put an `OSError` met at `path` into one line: what failed, where, and what to do next."""
    reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
    advice = _ADVICE.get(error.errno or 0, "check that the disk is there and healthy, then run again")
    return StoreError(f"{path}: cannot be {action}: {reason}; {advice}")


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `final`; rename it to `final` when the block ends well.

    Parents are made. On any exception the temporary file is removed and `final` stays as it was.

    Raises:
        StoreError: the file cannot be written (the block's own `OSError` counts as that), or the block wrote nothing.
    """
    temp = begin(final)
    try:
        yield temp
        commit(temp, final)
    except OSError as error:
        raise store_error(final, error) from error
    finally:
        discard(temp)  # a no-op once it was renamed


def begin(final: Path) -> Path:
    """Choose a temporary path for `final` and make its folder. For writers that span more than one block."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(final, error) from error
    here = current_process()
    started = f"{here.started_ticks:x}" if here.started_ticks is not None else ""
    stamp = f"{_host_tag(here)}-{here.pid}-{started}-{secrets.token_hex(4)}"
    suffix = final.suffix if len(final.suffix) <= 16 else ""
    temp = final.with_name(f".{final.stem[:24]}.{stamp}.tmp{suffix}")
    _open_temps.add(temp)
    return temp


def commit(temp: Path, final: Path) -> None:
    """Flush the finished file `temp` to disk and rename it to `final`.

    Raises:
        StoreError: it is not there, or cannot be flushed or renamed.
    """
    try:
        _fsync(temp)
        temp.replace(final)
        _open_temps.discard(temp)
    except FileNotFoundError as error:
        raise StoreError(
            f"{final}: its temporary file is gone before it was complete; nothing was written, or something cleans "
            "this folder; run again"
        ) from error
    except OSError as error:
        raise store_error(final, error) from error
    try:
        _fsync(final.parent)
    except OSError as error:  # network file systems may not know fsync of a folder; the file itself is safe
        if error.errno not in _NO_FOLDER_FSYNC:
            raise store_error(final, error) from error


def discard(temp: Path) -> None:
    """Remove a temporary file that is not wanted after all; absent is fine."""
    _open_temps.discard(temp)
    try:
        temp.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: this temporary file cannot be removed (%s); delete it by hand", temp, error.strerror)


def discard_all() -> None:
    """Remove all temporary files of this process, because it is about to end in the middle of its work."""
    for temp in list(_open_temps):
        discard(temp)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file atomically; what UTF-8 cannot say (a slide's undecodable name) is escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON atomically, keys in their own order.

    Raises:
        StoreError: it cannot be written, or `value` has no JSON form (NaN and infinity have none).
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            text = json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: its content cannot be expressed as JSON ({error}); please report this") from error
    write_text(path, text + "\n")


def remove_orphans(folder: Path) -> list[Path]:
    """Remove temporary files in `folder` (not below it) whose writers are dead; return what was removed.

    A writer on another host cannot be asked: its file goes after 24 hours without a write. A missing folder has none.
    """
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error(folder, error, "listed") from error
    removed = []
    for entry in entries:
        match = _TEMP_NAME.match(entry.name)
        if match and entry.is_file(follow_symlinks=False) and _is_orphan(entry, match):
            discard(Path(entry.path))
            removed.append(Path(entry.path))
    return sorted(removed)


def _is_orphan(entry: os.DirEntry[str], name: re.Match[str]) -> bool:
    here = current_process()
    if name["host"] != _host_tag(here):
        try:
            return time.time() - entry.stat(follow_symlinks=False).st_mtime > FOREIGN_ORPHAN_AGE_S
        except FileNotFoundError:  # renamed by its writer since it was listed
            return False
    started = int(name["started"], 16) if name["started"] else None
    writer = ProcessIdentity(here.hostname, int(name["pid"]), here.boot_id, here.pid_namespace, started)
    return liveness(writer) is Liveness.DEAD


def _host_tag(process: ProcessIdentity) -> str:
    """Eight digits that two processes share only where each can see whether the other is alive."""
    key = f"{process.hostname}|{process.boot_id}|{process.pid_namespace}"
    return hashlib.sha1(key.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()[:8]


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
