"""A container engine that runs nothing: it records what is asked of it over a unix socket, and gives set answers."""

from __future__ import annotations

import json
import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

CONTAINER = "f" * 64


@dataclass
class RecordingEngine:
    """What it was asked, and what it answers in place of the usual."""

    socket: Path
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path without the version, and body."""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """By `METHOD /path`: status and body."""
    dropped: set[str] = field(default_factory=set)
    """`METHOD /path` of requests whose connection is closed without an answer."""
    stalled: set[str] = field(default_factory=set)
    """`METHOD /path` of requests that get no answer while the engine lives."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set at the engine's end."""
    problems: list[BaseException] = field(default_factory=list)
    """What went wrong in here; the engine's end raises the first."""
    output: bytes = b""
    """What the container writes."""
    started: threading.Event = field(default_factory=threading.Event)
    """Set once the container was started; its output comes then."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set once the container has ended."""
    exit_code: int = 0

    def bodies(self, path: str) -> list[Any]:
        """The bodies of all requests to a path."""
        return [body for _, asked, body in self.requests if asked.partition("?")[0] == path]

    def paths(self) -> list[str]:
        """`METHOD /path` of all requests."""
        return [f"{method} {path}" for method, path, _ in self.requests]


@contextmanager
def recording_engine(socket: Path, image_labels: dict[str, str]) -> Iterator[RecordingEngine]:
    """The engine, with one image of these labels."""
    engine = RecordingEngine(socket)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def address_string(self) -> str:
            return "unix"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            body = json.loads(text) if text else None
            path = re.sub(r"^/v1\.\d+", "", self.path)
            engine.requests.append((self.command, path, body))
            asked = f"{self.command} {path.partition('?')[0]}"
            if asked in engine.stalled:
                engine.over.wait(600)
            if asked in engine.dropped | engine.stalled:
                self.close_connection = True
            elif asked in engine.answers:
                self._say(*engine.answers[asked])
            elif asked == "GET /version":
                self._say(200, {"ApiVersion": "1.41", "Version": "20.10"})
            elif asked == "GET /containers/json":
                self._say(200, [])
            elif asked.startswith("GET /images/"):
                self._say(200, {"Id": "sha256:1", "Config": {"Labels": image_labels}})
            elif asked == "POST /containers/create":
                self._say(201, {"Id": CONTAINER, "Warnings": []})
            elif asked.startswith("GET /containers/"):
                self._say(200, {"Id": CONTAINER, "Name": "/x", "Config": {"Tty": False, "Labels": {}}})
            elif asked.endswith("/attach"):
                self._attach()
            elif asked.endswith("/wait"):
                engine.ended.wait(600)
                self._say(200, {"StatusCode": engine.exit_code})
            else:
                if asked.endswith("/start"):
                    engine.started.set()
                elif self.command == "DELETE":
                    engine.ended.set()
                self._say(204, None)

        def _attach(self) -> None:
            frame = b"\x02\0\0\0" + len(engine.output).to_bytes(4, "big") + engine.output
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.docker.raw-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            engine.started.wait(600)
            self.wfile.write(frame if engine.output else b"")
            self.close_connection = True

        def _say(self, status: int, content: Any) -> None:
            text = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    class Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        request_queue_size = 128  # a client does not wait for a place in a full queue: it fails

        def get_request(self) -> tuple[Any, Any]:
            connection, _ = super().get_request()
            return connection, ("unix", 0)

        def handle_error(self, *_: object) -> None:
            """Keep it for the end; that a client has hung up is none."""
            error = sys.exc_info()[1]
            if error is not None and not isinstance(error, ConnectionError):
                engine.problems.append(error)

    with Listener(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            engine.over.set()
            engine.started.set()
            engine.ended.set()
            server.shutdown()
            thread.join()
    if engine.problems:
        raise engine.problems[0]
