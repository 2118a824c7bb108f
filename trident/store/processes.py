"""Who wrote something, and whether that process is still alive: the facts behind locks, temporary files and guards.

A process is only called dead where that is provable from this host. The same host name alone proves little: containers
share names between machines and hide each other's process numbers. So an identity also carries the machine's boot and
the process-number namespace, and the process's start time, against a number that was handed out again.
"""

from __future__ import annotations

import enum
import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SILENCE_AFTER_BOOT_S = 300.0
"""Slack for clocks that differ between this host and a file server."""


class Liveness(enum.Enum):
    """What can be said from here about a process."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, so that it can be told from any other, ever; unknown parts are None and then not compared."""

    hostname: str
    pid: int
    boot_id: str | None = None
    pid_namespace: str | None = None
    started_ticks: int | None = None
    """Start time in clock ticks since boot, as `/proc/<pid>/stat` has it."""


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def current_process() -> ProcessIdentity:
    """The identity of this process."""
    pid = os.getpid()
    return ProcessIdentity(socket.gethostname(), pid, _boot_id(), _pid_namespace(), _started_ticks(pid))


def liveness(process: ProcessIdentity, last_seen: float | None = None) -> Liveness:
    """Whether `process` still runs.

    Args:
        process: who is asked about.
        last_seen: its last sign of life, in seconds since the epoch; tells a reboot from a namesake machine.
    """
    here = current_process()
    if process.hostname != here.hostname:
        return Liveness.UNKNOWN
    if process.boot_id is not None and here.boot_id is not None and process.boot_id != here.boot_id:
        return Liveness.DEAD if _silent_since_boot(last_seen) else Liveness.UNKNOWN
    if process.pid_namespace is not None and process.pid_namespace != here.pid_namespace:
        return Liveness.UNKNOWN
    if not _exists(process.pid):
        return Liveness.DEAD
    started = _started_ticks(process.pid)
    if process.started_ticks is not None and started is not None and started != process.started_ticks:
        return Liveness.DEAD
    return Liveness.ALIVE


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's process, but there
    fields = _stat_fields(pid)
    return fields is None or fields[0] not in {"Z", "X"}


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of `/proc/<pid>/stat` after the command name (the state comes first); None where not to be had."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _started_ticks(pid: int) -> int | None:
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - Path.readlink would normalise "pid:[…]"
    except OSError:
        return None


def _silent_since_boot(last_seen: float | None) -> bool:
    """Whether the last sign of life is older than this machine's boot: what a reboot leaves behind.

    A namesake machine that shares the folder keeps giving signs of life, so it is not mistaken for the one before boot.
    """
    if last_seen is None:
        return False
    try:
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return False
    now = time.time()
    return last_seen < now - uptime_s and last_seen < now - _SILENCE_AFTER_BOOT_S
