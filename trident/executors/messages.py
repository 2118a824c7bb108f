"""What driver and executor say to each other: one JSON object a line over a unix socket.

A connection begins with its purpose. `{"purpose": "control"}` keeps the executor alive: it ends when this connection
does, and sends its log over it. `{"purpose": "run", …}` asks for one stage of one slide; the answers are any number of
`progress`, then one `result` or one `error`.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trident import errors
from trident.errors import TridentError, UnforeseenError
from trident.log import with_text
from trident.stages.base import StageResult

Message = dict[str, Any]

MAX_LINE_BYTES = 1 << 22
"""No message is longer: what claims to be is no message of ours."""


@dataclass(frozen=True)
class StageRequest:
    """One stage of one slide of a job."""

    job: str
    """Path of the job file."""
    kind: str
    slide: str


def send(connection: socket.socket, message: Message) -> None:
    """Send one message.

    Raises:
        OSError: nobody listens any more.
    """
    connection.sendall(json.dumps(message, default=str).encode("ascii") + b"\n")


def receive(connection: socket.socket) -> Iterator[Message]:
    """The messages of a connection until it ends.

    Raises:
        OSError: the connection broke, or was silent for longer than its time limit.
        ValueError: what came is no message.
    """
    rest = b""
    while True:
        received = connection.recv(1 << 16)
        if not received:
            return
        *lines, rest = (rest + received).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError("a message without an end")
        for line in lines:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("a message that is no JSON object")
            yield message


def result_message(result: StageResult) -> Message:
    """How a stage ended well."""
    return {"event": "result", "result": result.to_dict()}


def result_of(message: Message) -> StageResult:
    """The other way round. Tuples come back as lists."""
    return StageResult.from_dict(message["result"])


def error_message(error: BaseException, described: str, trace: str) -> Message:
    """How a stage failed.

    Args:
        error: what was raised.
        described: it, in one line.
        trace: its traceback; sent only where the error is none of ours.
    """
    expected = isinstance(error, TridentError)
    name = type(error).__name__ if expected else UnforeseenError.__name__
    return {"event": "error", "type": name, "message": described, "trace": None if expected else trace}


def error_of(message: Message) -> Exception:
    """The error that an executor met, as one of the same class."""
    kind = getattr(errors, str(message["type"]), TridentError)
    if kind is UnforeseenError:
        return UnforeseenError(str(message["message"]), str(message["trace"]))
    # SlideError builds its message from parts; here the message is whole.
    error: Exception = kind.__new__(kind)
    Exception.__init__(error, str(message["message"]))
    return error


def log_message(record: logging.LogRecord) -> Message:
    """A log record, formatted, for the driver's log."""
    trace = None
    if record.exc_info and record.exc_info[1] is not None and not isinstance(record.exc_info[1], TridentError):
        trace = logging.Formatter().formatException(record.exc_info)
    return {
        "event": "log",
        "logger": record.name,
        "level": record.levelno,
        "message": record.getMessage(),
        "trace": trace,
    }


def show_log(message: Message) -> None:
    """Put an executor's record into this process's log."""
    with_text(logging.getLogger(str(message["logger"])), int(message["level"]), message["message"], message["trace"])
