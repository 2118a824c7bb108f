"""`runs/<run_id>.json`: one manifest a run. No secret and no environment variable ever goes in."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trident import __version__
from trident.store.atomic import write_json
from trident.store.layout import JobLayout
from trident.store.processes import Liveness, ProcessIdentity, liveness, utc_now
from trident.store.redact import plain, redact_text

logger = logging.getLogger(__name__)

STATUSES = ("running", "completed", "error")
ENDED_ABRUPTLY = "ended abruptly: its process is gone"
"""Error of a run that was killed and could not close its manifest."""


def run_liveness(manifest: Mapping[str, Any], last_sign: float | None = None) -> Liveness:
    """Whether the process of a manifest that says `running` is there; on another host that is not known.

    A manifest names host and process number only. Where a namesake host's run is taken for dead, that run closes its
    manifest itself when it ends, so that the last word is right.

    Args:
        manifest: as it was read.
        last_sign: last sign of life of the run, in seconds since the epoch; None: not known.
    """
    host, pid = manifest.get("host"), manifest.get("pid")
    if not isinstance(host, str) or not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return Liveness.UNKNOWN
    return liveness(ProcessIdentity(host, pid), last_sign)


def _close_abandoned(layout: JobLayout) -> None:
    """Close the manifests of runs that were killed on this host. When they ended is not known."""
    for path in sorted(layout.runs_dir.glob("[!.]*.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # damaged, or not ours: the report names it
        if not isinstance(manifest, dict) or manifest.get("status") != "running":
            continue
        if run_liveness(manifest) is Liveness.DEAD:
            write_json(path, {**manifest, "status": "error", "error": ENDED_ABRUPTLY})
            logger.info("%s: this run %s", path, ENDED_ABRUPTLY)


@dataclass
class RunManifest:
    """The manifest of this run; made by `start`, closed by `finish`."""

    path: Path
    run_id: str
    tool: str
    started_at: str
    job_dir: str
    args: dict[str, object]
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    finished_at: str | None = None
    status: str = "running"
    error: str | None = None

    @classmethod
    def start(cls, layout: JobLayout, tool: str, args: Mapping[str, object], run_id: str | None = None) -> RunManifest:
        """Write the manifest of a run that begins now, and close those of runs that were killed.

        Args:
            layout: where the job lies.
            tool: which command runs, e.g. `batch`.
            args: its options; what looks like a token, secret or password is dropped.
            run_id: 12 hexadecimal digits; made up if not given.

        Raises:
            StoreError: one cannot be written.
        """
        _close_abandoned(layout)
        run_id = run_id or secrets.token_hex(6)
        path = layout.runs_dir / f"{run_id}.json"
        manifest = cls(path, run_id, tool, utc_now(), str(layout.job_dir), plain(args))
        manifest._write()
        return manifest

    def finish(self, status: str, error: str | None = None) -> None:
        """Note how the run ended: `completed`, or `error` with its message.

        Raises:
            ValueError: another status.
            StoreError: it cannot be written.
        """
        if status not in ("completed", "error"):
            raise ValueError(f"a run ends completed or in error, not {status!r}")
        self.status, self.finished_at = status, utc_now()
        self.error = None if error is None else redact_text(error)
        self._write()

    def _write(self) -> None:
        write_json(
            self.path,
            {
                "run_id": self.run_id,
                "tool": self.tool,
                "started_at": self.started_at,
                "finished_at": self.finished_at,
                "status": self.status,
                "error": self.error,
                "trident_version": __version__,
                "host": self.host,
                "pid": self.pid,
                "job_dir": self.job_dir,
                "args": self.args,
            },
        )
