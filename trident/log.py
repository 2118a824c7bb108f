"""Logging of the command line: one handler on stderr; stdout stays free for results."""

from __future__ import annotations

import logging
import sys

from trident.errors import TridentError

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_OURS = ("trident", "luigi_tasks")


class HideExpectedTracebacks(logging.Filter):
    """Drop the traceback of an error that its message explains in full."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, TridentError):
            record.exc_info = None
            record.exc_text = None
        return True


def configure(*, debug: bool = False) -> None:
    """Show our own log on stderr; idempotent."""
    level = logging.DEBUG if debug else logging.INFO
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
            handler = _Stderr()
            handler.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
            logger.addHandler(handler)
            logger.propagate = False


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever `sys.stderr` is at that moment."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)
