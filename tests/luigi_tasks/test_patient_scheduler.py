"""luigi_tasks/patient_scheduler.py and kept_connection.py: requests to a luigid, and what happens when it is lost."""

from __future__ import annotations

import json
import logging
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from luigi.rpc import RPCError

from luigi_tasks import patient_scheduler
from luigi_tasks.kept_connection import KeptConnections, can_be_kept
from luigi_tasks.patient_scheduler import LostScheduler, PatientScheduler

CLOSED = "http://127.0.0.1:1"


class _Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.then: Callable[[], object] = lambda: None
        """Called after each sleep."""

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()


class Server:
    """Answers as luigid does: each request with its own method and arguments."""

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.requests = 0
        self.status = 200
        self.hang_up = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.connections.add(self.client_address)
                outer.requests += 1
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                answer = json.dumps({"response": [self.path, json.loads(body["data"][0])]}).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                self.close_connection = outer.hang_up

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(patient_scheduler, "_patience", {})
    monkeypatch.setattr(patient_scheduler.time, "sleep", clock.sleep)
    patience = patient_scheduler.Patience
    monkeypatch.setattr(patient_scheduler, "Patience", lambda url, give_up_s: patience(url, give_up_s, clock))
    return clock


def _ask(scheduler: Any) -> object:
    return scheduler.count_pending(worker="w")


def test_all_requests_of_a_process_wait_once_together(clock: _Clock) -> None:
    first, second = PatientScheduler(CLOSED), PatientScheduler(CLOSED + "/")  # as for one shard and the next
    with pytest.raises(RPCError, match=r"no answer for 30 s: .*refused"):
        _ask(first)
    assert clock.now == pytest.approx(30)
    for scheduler in (first, second, first):
        with pytest.raises(RPCError):
            _ask(scheduler)
    assert clock.now == pytest.approx(30)


def test_one_that_comes_back_is_waited_for_again_later(clock: _Clock, server: Server) -> None:
    scheduler: Any = PatientScheduler(server.url)
    server.status = 503

    def mend() -> None:
        server.status = 503 if clock.now < 20 else 200

    clock.then = mend
    for _ in range(2):
        server.status, clock.now = 503, 0.0
        assert _ask(scheduler) == ["/api/count_pending", {"worker": "w"}]
        assert clock.now == pytest.approx(20)


def test_the_wait_is_set_by_luigis_own_options(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    from luigi.configuration import get_config

    get_config().set("core", "rpc-retry-attempts", "2")
    get_config().set("core", "rpc-retry-wait", "3")
    try:
        with pytest.raises(RPCError, match="no answer for 6 s"):
            _ask(PatientScheduler(CLOSED))
    finally:
        get_config().set("core", "rpc-retry-attempts", "5")
        get_config().set("core", "rpc-retry-wait", "6")
    assert clock.now == pytest.approx(6)


def test_connections_are_kept_and_shared_by_threads(server: Server) -> None:
    connections = KeptConnections()

    def ask() -> None:
        assert "/x" in connections.fetch(f"{server.url}/x", {"data": "1"}, 10)

    for _ in range(20):  # one thread after the other, as tasks are
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert (server.requests, len(server.connections)) == (20, 1)
    connections.close()
    ask()
    assert len(server.connections) == 2


def test_a_connection_that_was_closed_meanwhile_is_opened_again(server: Server) -> None:
    connections = KeptConnections()
    server.hang_up = True
    for _ in range(3):
        assert "/x" in connections.fetch(f"{server.url}/x", {"data": "1"}, 10)
    assert (server.requests, len(server.connections)) == (3, 3)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_bad_answer_is_none(status: int, server: Server) -> None:
    connections = KeptConnections()
    server.status = status
    with pytest.raises(KeptConnections.raises, match=str(status)):
        connections.fetch(f"{server.url}/x", {"data": "1"}, 10)
    assert server.requests == 1
    server.status = 200
    assert connections.fetch(f"{server.url}/x", {"data": "2"}, 10) == '{"response": ["/x", 2]}'


def test_a_server_that_says_nothing_is_not_waited_for_long() -> None:
    given_up = threading.Event()

    class Deaf(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            given_up.wait()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Deaf) as deaf:
        threading.Thread(target=deaf.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        connections = KeptConnections()
        try:
            with pytest.raises(TimeoutError):
                connections.fetch(f"http://127.0.0.1:{deaf.server_address[1]}/x", {"data": "1"}, 0.05)
        finally:
            given_up.set()
            deaf.shutdown()


@pytest.mark.parametrize(
    ("url", "proxy", "kept"),
    [
        ("http://127.0.0.1:8082", None, True),
        ("http://some.host:8082/prefix", None, True),
        ("http://some.host:8082", "http://proxy:3128", False),
        ("http://127.0.0.1:8082", "http://proxy:3128", True),
        ("https://some.host", None, False),
        ("http://me:secret@some.host:8082", None, False),
        ("http+unix://%2Frun%2Fluigid.sock", None, False),
        ("http://", None, False),
    ],
)
def test_what_is_left_to_luigi(url: str, proxy: str | None, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert can_be_kept(url) is kept


@pytest.mark.parametrize(
    ("module", "error", "shown"),
    [("rpc", OSError("x"), False), ("worker", RPCError("x"), False), ("worker", OSError("x"), True)],
)
def test_a_lost_luigid_has_no_traceback(module: str, error: Exception, shown: bool) -> None:
    record = logging.LogRecord("luigi-interface", logging.ERROR, f"/{module}.py", 1, "m", None, (OSError, error, None))
    assert LostScheduler().filter(record)
    assert (record.exc_info is not None) is shown


@pytest.fixture
def impatient(tmp_path: Any) -> dict[str, str]:
    """Environment of a run that waits a second for a lost luigid."""
    config = tmp_path / "impatient.cfg"
    config.write_text("[core]\nrpc-retry-attempts = 1\nrpc-retry-wait = 1\n")
    return {"LUIGI_CONFIG_PATH": str(config)}


@pytest.mark.parametrize("program", ["batch", "luigi"])
def test_a_run_that_loses_its_luigid_ends_in_order(
    program: str,
    impatient: dict[str, str],
    moody: Any,
    job: Any,
    drawn_slides: Callable[..., Any],
    start_luigid: Callable[..., Any],
    start_program: Callable[..., Any],
    finish_program: Callable[..., Any],
    wait_until: Callable[..., None],
    left_behind: Callable[..., Any],
    runtime_folder: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wsis = drawn_slides(tmp_path / "wsis", "a.svs")
    url, luigid = start_luigid(cwd=tmp_path)
    options: dict[str, Any] = {"wsi_dir": wsis, "job_dir": job.path, "task": "all", "segmenter": "otsu", "mag": 20}
    options |= {"patch_size": 128, "gpus": "-1", "patch_encoder": "moody", "scheduler_url": url}
    env = {**impatient, "PYTHONPATH": os.environ["PYTHONPATH"], "XDG_RUNTIME_DIR": str(runtime_folder)}
    dash, task = ("-", ["RunCohort"]) if program == "luigi" else ("_", [])
    moody.order("wait")
    arguments = [f"--{name.replace('_', dash)}={value}" for name, value in options.items()]
    run = start_program(program, *task, *arguments, env=env)
    wait_until(moody.stuck, run)
    luigid.kill()
    luigid.communicate()
    moody.forget()
    ended = finish_program(run)
    assert ended.code == 2, ended.err
    assert f"{url}: luigid does not answer (no answer for 1 s: " in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("luigid does not answer; waiting for it for 1 s") == 1
    assert left_behind(job.path) == []
    (manifest,) = job.manifests()
    assert manifest["status"] == "error"
    assert "luigid does not answer" in manifest["error"]
