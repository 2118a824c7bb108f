"""An executor, started by `trident.executors.pool` as `python -m trident.executors.server`.

It runs the stages that its driver asks for, each in a thread, and keeps their models loaded. It ends when its driver
does, however that ends: the control connection breaks then. What it was doing is put down as interrupted, its locks and
temporary files are removed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trident import log
from trident.devices import restrict_visibility
from trident.executors.messages import (
    Message,
    StageRequest,
    error_message,
    log_message,
    receive,
    result_message,
    send,
)
from trident.stages.tracking import describe_error
from trident.stages.work import abandon_work, run_recorded, stages_for_work

logger = logging.getLogger(__name__)

ORPHAN_S = 60.0
"""An executor that no driver has spoken to for this long, after its start, ends."""
_PROGRESS_EVERY_S = 0.2
_LOOK_EVERY_S = 1.0
"""A signal that the kernel gives to another thread does not wake the main one, which alone runs Python's handlers."""


class _End:
    """The word that this process is to end. A signal's handler may give it, in the middle of `wait` too.

    An Event's `set` would then wait for the lock that the interrupted `wait` holds.
    """

    def __init__(self) -> None:
        self.is_given = False
        self._words: queue.SimpleQueue[None] = queue.SimpleQueue()

    def give(self) -> None:
        self.is_given = True
        self._words.put(None)

    def wait(self, seconds: float) -> bool:
        """Whether it is given, by now or within this time; for one thread."""
        if not self.is_given:
            with contextlib.suppress(queue.Empty):
                self._words.get(timeout=seconds)
        return self.is_given


class Server:
    """Answers requests on a unix socket until its driver lets go of it."""

    def __init__(self, socket_path: Path, device_index: int, host: dict[str, Any], driver_pid: int) -> None:
        """Args:
        socket_path: where to listen.
        device_index: GPU, counted among those that this process was granted; -1: CPU.
        host: options of the run that are no part of its job file.
        driver_pid: of this process's parent, which may be dead by now.
        """
        self._socket_path = socket_path
        self._device_index = device_index
        self._host = tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in host.items()))
        self._driver_pid = driver_pid
        self._end = _End()
        self._control: socket.socket | None = None
        self._control_lock = threading.Lock()
        self._planning = threading.Lock()

    def serve(self) -> None:
        """Listen, work, and return once the driver is gone or SIGTERM came."""
        signal.signal(signal.SIGTERM, lambda *_: self._end.give())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the driver decides what it means
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            before = os.umask(0o177)
            listener.bind(str(self._socket_path))
            os.umask(before)
            listener.listen()
            _in_thread(lambda: self._accept(listener))
            self._wait_for_driver()
            while not self._end.wait(_LOOK_EVERY_S):
                pass
        abandon_work()

    def _wait_for_driver(self) -> None:
        deadline = time.monotonic() + ORPHAN_S
        while self._control is None and not self._end.wait(0.05):
            if os.getppid() != self._driver_pid:
                logger.warning("the driver of this executor is dead: it ends")
                self._end.give()
            elif time.monotonic() > deadline:
                logger.warning("no driver speaks to this executor: it ends")
                self._end.give()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the end has begun
                return
            _in_thread(lambda taken=connection: self._answer(taken))  # type: ignore[misc]

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            messages = receive(connection)
            try:
                first = next(messages, None)
                if first is None:
                    return
                if first.get("purpose") == "control":
                    self._stay(connection)
                    for _ in messages:  # the driver says nothing more; the end of this is the end of the run
                        pass
                    self._end.give()
                else:
                    request = StageRequest(str(first["job"]), str(first["kind"]), str(first["slide"]))
                    self._run(connection, request)
            except (OSError, ValueError, KeyError) as error:
                logger.debug("a connection broke: %s", error)
                if connection is self._control:
                    self._end.give()

    def _stay(self, connection: socket.socket) -> None:
        send(connection, {"event": "ready", "pid": os.getpid()})
        self._control = connection
        handler = _ToDriver(self._tell)
        for name in log.OURS:
            logging.getLogger(name).handlers[:] = [handler]

    def _tell(self, message: Message) -> None:
        with self._control_lock:
            if self._control is not None:
                send(self._control, message)

    def _run(self, connection: socket.socket, request: StageRequest) -> None:
        said = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said >= _PROGRESS_EVERY_S or done >= total:
                said = now
                send(connection, {"event": "progress", "done": done, "total": total})

        try:
            with self._planning:  # or two threads would hash the same weights
                stages = stages_for_work(request.job, self._device_index, self._host)
            answer = result_message(run_recorded(stages.stage(request.kind, request.slide), progress))
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver is told, and raises it again
            if self._end.is_given:  # what the end of this process does to a stage says nothing about the slide
                return
            answer = error_message(error, describe_error(error), traceback.format_exc())
        send(connection, answer)


class _ToDriver(logging.Handler):
    """Sends every record to the driver, whose log it belongs to."""

    def __init__(self, tell: Callable[[Message], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._tell(log_message(record))
        except OSError:  # the driver is gone, and so is this process in a moment
            self.flush()


def _in_thread(function: Callable[[], None]) -> None:
    threading.Thread(target=function, daemon=True).start()


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="Run stages for a trident run; started by it, not by people.")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--device-index", type=int, required=True)
    parser.add_argument("--host-options", type=json.loads, default={}, help="JSON object")
    parser.add_argument("--driver-pid", type=int, default=os.getppid(), help="default: the parent at this moment")
    parser.add_argument("--debug", action="store_true")
    arguments = parser.parse_args()
    faulthandler.enable()
    log.configure(debug=arguments.debug)
    restrict_visibility(arguments.device_index)
    Server(arguments.socket, arguments.device_index, arguments.host_options, arguments.driver_pid).serve()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads in the middle of their work must not go on


if __name__ == "__main__":
    main()
