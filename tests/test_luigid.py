"""The address of a luigid: what is shown of it, and what is sent."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import pytest
from luigi.rpc import RemoteScheduler

from trident.luigid import request_to, shown_address

ANSWER = b'{"response": {"enabled": true}}'


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost:8082", "http://localhost:8082"),
        ("https://me:hush@host/luigi", "https://[removed]@host/luigi"),
        ("http://me:hu@hush@host", "http://[removed]@host"),
        ("http://me:hu/hush?@host", "http://[removed]@host"),
        ("http://me:hu://hush@host", "http://[removed]@host"),
        ("http+unix://me:hush@%2Frun", "http+unix://[removed]@%2Frun"),
        ("me:hush@host:1", "[removed]@host:1"),
        ("//me:hush@host:1", "[removed]@host:1"),
        ("hush\n@host", "[removed]@host"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert shown_address(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        *("", "hush", "me:hush@host", "//me:hush@host", "ftp://me:hush@host", "http://", "http://me:hush@"),
        *("http://me:hush@[::1", "http://me:hush/@host", "http://me:hush@host:99999", "http://me@host:hush"),
    ],
)
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^no address of the form http://host:port$"):
        request_to(url, "/")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Host and port of a server that answers as luigid, and the (path, Authorization) of what it was asked.

    It answers `/moved` with `/elsewhere`.
    """
    asked: list[tuple[str, str | None]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(ANSWER)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("NETRC", os.devnull)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()


@pytest.mark.parametrize(
    ("user_info", "sent"),
    [
        ("", None),
        ("me@", None),
        ("me:hush@", "me:hush"),
        (":hush@", ":hush"),
        ("me:p%40ss%2F@", "me:p@ss/"),
        ("me:a:b@", "me:a:b"),
    ],
)
def test_name_and_password_are_sent_as_luigi_sends_them(user_info: str, sent: str | None, server: Any) -> None:
    host, asked = server
    with urlopen(request_to(f"http://{user_info}{host}/", "/api/is_pause_enabled"), timeout=60) as answer:
        assert answer.read() == ANSWER
    RemoteScheduler(f"http://{user_info}{host}").is_pause_enabled()
    expected = None if sent is None else "Basic " + base64.b64encode(sent.encode()).decode()
    assert asked == [("/api/is_pause_enabled", expected)] * 2


def test_a_password_is_not_sent_on(server: Any) -> None:
    host, asked = server
    with urlopen(request_to(f"http://me:hush@{host}", "/moved"), timeout=60) as answer:
        assert answer.read() == ANSWER
    assert [(path, known is not None) for path, known in asked] == [("/moved", True), ("/elsewhere", False)]
