"""`<output>.lock`: one writer an output, on every machine that shares the job directory.

A lock is a file that only one process can create. While it is held its time stamp is refreshed, so that a lock of
another host which is still in use can be told from one that was left behind. A lock whose writer is provably dead on
this host is taken over, under a guard, so that of two takers only one wins. So is one of another host whose time stamp
this process has watched standing still for a minute: its host died. Watched, since clocks of hosts differ.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from trident.errors import LockHeldError
from trident.store import atomic, lock_refresher
from trident.store.atomic import store_error
from trident.store.dead_locks import clear_dead_locks
from trident.store.guards import folder_guard
from trident.store.lock_holder import LOCK_SUFFIX, LockHolder, read_lock
from trident.store.processes import Liveness, current_process, utc_now

logger = logging.getLogger(__name__)

__all__ = ["LockHolder", "OutputLock", "clear_dead_locks", "lock_path", "lock_status"]

_MAX_NAME_BYTES = 255
_TRIES = 10
ABANDONED_S = 4 * lock_refresher.REFRESH_S
"""A lock of another host that is not refreshed while it is watched for this long has lost its holder."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
_taking = threading.Lock()
"""Held while a lock is made and noted, or given back, so that none is overlooked when the process ends."""
_ending = False
"""Set when this process is about to end in the middle of its work: then no lock is taken any more."""

_watched: dict[Path, tuple[str | None, float, float]] = {}
"""Locks of other hosts: id, time stamp, and since when (by this process's clock) they have been seen with these."""


def lock_path(output: Path) -> Path:
    """`<output>.lock`; a name that would be too long for the file system is cut and told apart by a hash."""
    name = output.name + LOCK_SUFFIX
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        digest = hashlib.sha1(os.fsencode(output.name), usedforsecurity=False).hexdigest()[:12]
        name = f"{output.stem[:48]}~{digest}{output.suffix[:16]}{LOCK_SUFFIX}"
    return output.with_name(name)


def lock_status(output: Path) -> LockHolder | None:
    """Who holds the lock of `output`, alive or not; None where it is not locked."""
    return read_lock(lock_path(output))


def release_all() -> None:
    """Give back every lock of this process, and take none any more: it is about to end in the middle of its work."""
    global _ending  # noqa: PLW0603 - a process ends once
    with _taking:
        _ending = True
    for path, inode in lock_refresher.held().items():
        lock_refresher.remove(path)
        try:
            if path.stat().st_ino == inode:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as problem:
            logger.warning("%s: this lock cannot be removed (%s); delete it by hand", path, problem.strerror)


class OutputLock:
    """Hold the right to write one output, as a context manager.

    Raises:
        LockHeldError: (on entering) another process holds it, or may: the message says which, and what to do.
        StoreError: (on entering) the lock file cannot be made.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = lock_path(output)
        self._lock_id: str | None = None
        self._pid = 0

    def __enter__(self) -> OutputLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise store_error(self.path, error) from error
        for _ in range(_TRIES):
            if self._create():
                return self
            holder = read_lock(self.path)
            if holder is None:
                continue  # given back since
            if not _is_left_behind(self.path, holder) or not self._take_over():
                raise self._held(holder)
            return self
        raise LockHeldError(f"{self.output}: other processes take and give back its lock all the time; run again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lock_id, self._lock_id = self._lock_id, None
        if lock_id is None or os.getpid() != self._pid:  # a fork leaves the lock to the process that took it
            return
        with _taking:
            lock_refresher.remove(self.path)
            holder = read_lock(self.path)
            if holder is None or holder.lock_id != lock_id:
                logger.warning("%s: this lock was removed or taken by another process while held here", self.path)
                return
            try:
                self.path.unlink(missing_ok=True)
            except OSError as problem:
                logger.warning("%s: this lock cannot be removed (%s); delete it by hand", self.path, problem.strerror)

    def _create(self) -> bool:
        """Make the lock file, with its content from the first moment; False where there is one."""
        lock_id = secrets.token_hex(8)
        me = current_process()
        content = {
            "pid": me.pid,
            "hostname": me.hostname,
            "created_at": utc_now(),
            **{key: value for key, value in asdict(me).items() if key not in {"pid", "hostname"}},
            "lock_id": lock_id,
            "refresh_s": lock_refresher.REFRESH_S,
            "output": self.output.name,
        }
        temp = atomic.begin(self.output)
        try:
            inode = _write(temp, content)
            with _taking:
                if _ending:
                    raise LockHeldError(f"{self.output}: not begun: this process is ending")
                try:
                    os.link(temp, self.path)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    inode = _write(self.path, content)  # a file system without links: a kill may leave half
                lock_refresher.add(self.path, inode)
        except FileExistsError:
            return False
        except OSError as error:
            raise store_error(self.path, error) from error
        finally:
            atomic.discard(temp)
        self._lock_id, self._pid = lock_id, me.pid
        return True

    def _take_over(self) -> bool:
        """Replace a dead writer's lock; False where somebody was faster."""
        with folder_guard(self.path.parent) as guarded:
            if not guarded:  # without the guard two takers could both win
                return False
            holder = read_lock(self.path)
            if holder is not None:
                if not _is_left_behind(self.path, holder):
                    return False
                logger.info("%s: taking over the lock of %s, which is dead", self.path, holder.describe())
                self.path.unlink(missing_ok=True)
            _watched.pop(self.path, None)
            return self._create()

    def _held(self, seen: LockHolder) -> LockHeldError:
        holder = read_lock(self.path) or seen
        return LockHeldError(
            f"{self.output}: {holder.describe()} is writing it (last sign of life {holder.silent_for()} ago); "
            "wait for it, or, if it is gone, run again with --clear_dead_locks"
        )


def _write(path: Path, content: dict[str, object]) -> int:
    """Make a new file with this content; its inode.

    Raises:
        FileExistsError: there is one.
    """
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb") as file:
        try:
            file.write(json.dumps(content).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return os.fstat(file.fileno()).st_ino


def _is_left_behind(path: Path, holder: LockHolder) -> bool:
    """Whether a lock's writer is dead: provably, or seen to be silent."""
    if holder.state is not Liveness.UNKNOWN or not holder.is_refreshed:
        return holder.state is Liveness.DEAD
    now = time.monotonic()
    lock_id, refreshed_at, since = _watched.get(path, (None, 0.0, now))
    if (lock_id, refreshed_at) != (holder.lock_id, holder.refreshed_at):
        _watched[path] = (holder.lock_id, holder.refreshed_at, now)
        return False
    return now - since > ABANDONED_S


def _new_mutex() -> None:
    global _taking  # noqa: PLW0603 - in a forked child the parent's may be in any state
    _taking = threading.Lock()


os.register_at_fork(after_in_child=_new_mutex)
