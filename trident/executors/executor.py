"""The driver's side of one executor: start it, ask it for stages, notice its death."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from trident.errors import ExecutorError, NotStartedError, TaskTimeoutError
from trident.executors.messages import StageRequest, error_of, receive, result_of, send, show_log
from trident.log import with_text
from trident.stages.base import Progress, StageResult

logger = logging.getLogger(__name__)

START_S = 180.0
"""Time for an executor to answer: python starts, and in a container an image may have to be unpacked."""
_LAST_WORDS = 120
"""Lines of what a dead executor said that are shown."""
GRACE_S = 3.0
"""Time for an executor to put its work down when it is told to end."""
_LATEST_END_S = GRACE_S + 1.0
"""The end of the process is waited for so long once its connections broke: only then its locks are free."""


class Process(Protocol):
    """What runs an executor: a process of this host, or a container."""

    def poll(self) -> int | None:
        """None while it runs, then its exit code (negative: a signal)."""

    def terminate(self) -> None:
        """Tell it to end."""

    def kill(self) -> None:
        """End it."""


Launch = Callable[[Path, int], Process]
"""Starts an executor that listens at a socket path, for a device index (-1: CPU)."""


class ExecutorDiedError(Exception):
    """The executor ended while it had work; says how."""


def process_launcher(host: Mapping[str, Any]) -> Launch:
    """Starts executors as processes of their own sessions: a terminal's Ctrl-C reaches the driver alone.

    What native libraries print goes to a file beside the socket; it is shown where the process dies. With `--debug` it
    goes to the terminal.

    Args:
        host: options of the run that are no part of its job file, in JSON form.
    """

    def launch(socket_path: Path, device_index: int) -> Process:
        command = [
            *(sys.executable, "-m", "trident.executors.server", "--socket", str(socket_path)),
            *("--device-index", str(device_index), "--host-options", json.dumps(dict(host))),
            *("--driver-pid", str(os.getpid())),
        ]
        if logging.getLogger("trident").isEnabledFor(logging.DEBUG):
            command.append("--debug")
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        with _words_path(socket_path).open("wb") as words:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
            )

    return launch


class Executor:
    """One running executor."""

    def __init__(
        self,
        name: str,
        socket_path: Path,
        device_index: int,
        launch: Launch,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Start it and wait until it answers.

        Args:
            name: of its device, for people.
            socket_path: where it is to listen.
            device_index: GPU; -1: CPU.
            launch: starts it.
            is_wanted: asked while it starts; once it says no, the process is ended.

        Raises:
            ExecutorError: it does not start.
            ExecutorDiedError: it was killed while it started.
            NotStartedError: it is not wanted any more.
        """
        self._is_wanted = is_wanted
        self.name = name
        self._socket_path = socket_path
        self._process = launch(socket_path, device_index)
        self._dead = threading.Event()
        self._ended_by_us: str | None = None
        try:
            self._control = self._connect()
            self._messages = receive(self._control)
            ready = next(self._messages, None)
        except NotStartedError:
            self._process.kill()
            raise
        except (OSError, ValueError) as error:
            raise self._not_started(str(error)) from error
        if ready is None:
            raise self._not_started(f"it ended{self._how()}")
        self.pid = int(ready["pid"])
        threading.Thread(target=self._listen, name=f"executor-{name}", daemon=True).start()
        logger.debug("executor %s runs as process %d", name, self.pid)

    @property
    def is_alive(self) -> bool:
        """Whether it can take work."""
        return not self._dead.is_set()

    def run(self, request: StageRequest, progress: Progress, timeout_s: float | None) -> StageResult:
        """Have one stage run there.

        Args:
            request: the stage.
            progress: told how far it is.
            timeout_s: the executor is ended, and with it whatever else it does, when the stage takes longer.

        Raises:
            ExecutorDiedError: the executor ended before the stage did.
            TaskTimeoutError: the stage took longer than `timeout_s`.
            TridentError, UnforeseenError: what the stage itself raised.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            with self._open() as connection:
                send(connection, {"purpose": "run", **vars(request)})
                connection.settimeout(timeout_s)
                for message in receive(connection):
                    if message["event"] == "result":
                        return result_of(message)
                    if message["event"] == "error":
                        raise error_of(message)
                    progress(int(message["done"]), int(message["total"]))
                    if deadline is not None:
                        connection.settimeout(max(0.001, deadline - time.monotonic()))
        except TimeoutError as error:
            limit = f"--task_timeout {timeout_s:g}"
            self.kill(f"{request.slide} took longer than {limit} s")
            raise TaskTimeoutError(
                f"{request.slide}: {request.kind.replace('_', ' ')} took longer than {limit} s and was ended; "
                "look at this slide, or allow more time"
            ) from error
        except (OSError, ValueError) as error:
            self._dead.wait(GRACE_S)
            raise ExecutorDiedError(f"executor {self.name} ended{self._how()}") from error
        self._dead.wait(GRACE_S)
        raise ExecutorDiedError(f"executor {self.name} ended{self._how()}")

    def kill(self, why: str) -> None:
        """End it at once."""
        self._ended_by_us = why
        self._process.kill()
        self._dead.set()
        self._await_end(1.0)

    def close(self) -> None:
        """Let it end: it puts down what it was doing. One that does not end in time is killed."""
        self._ended_by_us = "the run is over"
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for the end of a closed executor until `deadline` (of `time.monotonic`), then kill it."""
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                logger.warning("executor %s does not end by itself: it is killed", self.name)
                self._process.kill()
                deadline = float("inf")
            time.sleep(0.01)

    def _not_started(self, why: str) -> Exception:
        """What to raise; one that was killed by a signal deserves another try."""
        code = self._process.poll()
        self._process.kill()
        if code is not None and code < 0:
            return ExecutorDiedError(f"executor {self.name} does not start ({why})")
        return ExecutorError(f"executor {self.name} does not start ({why})")

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + START_S
        while True:
            try:
                connection = self._open()
                send(connection, {"purpose": "control"})
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                if not self._is_wanted():
                    raise NotStartedError("the run stops: not begun") from None
                if self._process.poll() is not None:
                    raise ConnectionResetError(f"it ended{self._how()}") from None
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer within {START_S:.0f} s") from None
                time.sleep(0.02)

    def _open(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._socket_path))
        except OSError:
            connection.close()
            raise
        return connection

    def _listen(self) -> None:
        """Show its log until it ends."""
        try:
            for message in self._messages:
                show_log(message)
        except (OSError, ValueError, KeyError) as error:
            logger.debug("executor %s: %s", self.name, error)
        self._dead.set()

    def _how(self) -> str:
        if self._ended_by_us is not None:
            self._await_end(_LATEST_END_S)
            return f" ({self._ended_by_us})"
        code = self._await_end(1.0)
        if code is None:
            return ""
        if words := _last_words(self._socket_path):
            with_text(logger, logging.WARNING, f"executor {self.name}, last words:", words)
        if code < 0:
            return f" by signal {-code} ({_signal_name(-code)})"
        return f" with exit code {code}"

    def _await_end(self, seconds: float) -> int | None:
        """The exit code, once the process has ended; None where it has not in this time."""
        deadline = time.monotonic() + seconds
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _words_path(socket_path: Path) -> Path:
    """Where an executor's process writes what is not for its driver."""
    return socket_path.with_name(f"{socket_path.name}.words")


def _last_words(socket_path: Path) -> str:
    """What a dead process said at its end; "" where nothing is known."""
    try:
        text = _words_path(socket_path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.strip().splitlines() if not line.startswith("Extension modules:")]
    return "\n".join(lines[-_LAST_WORDS:])
