"""Logging of the command line: one handler on stderr; stdout stays free for results."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime, timezone

from trident.errors import TridentError

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but the tab, and those that turn the direction of writing."""
OURS = ("trident", "luigi_tasks")


class HideExpectedTracebacks(logging.Filter):
    """Drop the traceback of an error that its message explains in full."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, TridentError):
            record.exc_info = None
            record.exc_text = None
        return True


def configure(*, debug: bool = False, quiet: bool = False, as_json: bool = False) -> None:
    """Show our own log on stderr; the last call counts.

    Args:
        debug: everything.
        quiet: only warnings and errors.
        as_json: one JSON object a line, with `time` (UTC), `level`, `logger`, `message` and, if any, `traceback`.
    """
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    formatter = _JsonLines() if as_json else _OneLine(_FORMAT, "%H:%M:%S")
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
            logger.addHandler(_Stderr())
            logger.propagate = False
        for handler in logger.handlers:
            if isinstance(handler, _Stderr):
                handler.setFormatter(formatter)


def with_text(logger: logging.Logger, level: int, message: str, text: str | None) -> None:
    """Log a line and, below it, a text of several lines, such as a traceback that another process sent.

    Args:
        logger: whose record it is.
        level: of the record.
        message: the line, not a format.
        text: shown as it is; None or empty: nothing.
    """
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(logger.name, level, __file__, 0, "%s", (message,), None)
    record.exc_text = text or None
    logger.handle(record)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever `sys.stderr` is at that moment."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


class _OneLine(logging.Formatter):
    """Keeps a message on its line: a file name may hold line breaks, or codes that command a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name for it
        """The line of a record, without its traceback; control characters are shown as `\\x1b`."""
        return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], super().formatMessage(record))


class _JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["traceback"] = record.exc_text
        return json.dumps(fields)
