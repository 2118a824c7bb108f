"""What a lock file says about its writer. Understands locks of TRIDENT, which know less, and damaged ones."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from trident.store.atomic import store_error
from trident.store.processes import Liveness, ProcessIdentity, liveness

LOCK_SUFFIX = ".lock"

FRESH_S = 300.0
"""A lock that was refreshed within this time is in use (many refreshes may be missed)."""

_MAX_LOCK_BYTES = 1 << 16
_MAX_DESCRIPTION = 200


@dataclass(frozen=True)
class LockHolder:
    """The writer that a lock names.

    Attributes:
        pid: its process number; None, as the next two, where the lock is unreadable.
        hostname: its host.
        created_at: when it took the lock, ISO 8601.
        output: file name of the output; None where the lock does not say.
        lock_id: tells this lock from any other; None in a lock of another tool.
        state: whether the writer lives, as far as this host can tell.
        silent_s: seconds since the lock was made or last refreshed.
        refreshed_at: the file's time stamp, in seconds since the epoch of whoever set it.
        is_refreshed: whether its writer refreshes it while it is held (ours do).
    """

    pid: int | None
    hostname: str | None
    created_at: str | None
    output: str | None
    lock_id: str | None
    state: Liveness
    silent_s: float
    refreshed_at: float
    is_refreshed: bool

    @property
    def is_readable(self) -> bool:
        """Whether the lock names its writer."""
        return self.pid is not None

    @property
    def is_in_use(self) -> bool:
        """Whether the lock is held: ours, its writer not known to be dead, and seen alive or refreshing it lately."""
        if not self.is_refreshed or self.state is Liveness.DEAD:
            return False
        return self.state is Liveness.ALIVE or self.silent_s < FRESH_S

    def describe(self) -> str:
        """ "process 123 on host a (since …)"."""
        if not self.is_readable:
            return "an unknown process (its lock is unreadable)"
        text = f"process {self.pid} on {self.hostname} (since {self.created_at or 'an unknown time'})"
        return " ".join(text.split())[:_MAX_DESCRIPTION]

    def silent_for(self) -> str:
        """How long ago the last sign of life was, for people."""
        for unit, seconds in (("h", 3600), ("min", 60)):
            if self.silent_s >= 2 * seconds:
                return f"{self.silent_s / seconds:.0f} {unit}"
        return f"{max(0.0, self.silent_s):.0f} s"


def read_lock(path: Path) -> LockHolder | None:
    """Read one lock file; None where there is none.

    Raises:
        StoreError: the file system refuses to say.
    """
    try:
        with path.open("rb") as file:  # on NFS opening a file asks the server for its time stamp; stat alone may not
            modified = os.fstat(file.fileno()).st_mtime
            content = file.read(_MAX_LOCK_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(path, error, "read") from error
    silent_s = time.time() - modified
    fields = _fields(content)
    pid, hostname = fields.get("pid"), fields.get("hostname")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid < 1 or not isinstance(hostname, str):
        return LockHolder(None, None, None, None, None, Liveness.UNKNOWN, silent_s, modified, False)
    created_at, lock_id = _text(fields.get("created_at")), _text(fields.get("lock_id"))
    is_refreshed = lock_id is not None and "refresh_s" in fields
    if not is_refreshed:  # such a lock was never touched again: its own date counts where a copy has a younger one
        silent_s = max(silent_s, _age_s(created_at))
    ticks = fields.get("started_ticks")
    writer = ProcessIdentity(
        hostname,
        pid,
        _text(fields.get("boot_id")),
        _text(fields.get("pid_namespace")),
        ticks if isinstance(ticks, int) else None,
    )
    state = liveness(writer, last_seen=time.time() - silent_s)
    output = _text(fields.get("output"))
    return LockHolder(pid, hostname, created_at, output, lock_id, state, silent_s, modified, is_refreshed)


def _fields(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _age_s(created_at: str | None) -> float:
    if created_at is None:
        return 0.0
    try:
        moment = datetime.fromisoformat(created_at.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return time.time() - moment.timestamp()
