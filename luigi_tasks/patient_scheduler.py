"""A luigid that is lost in the middle of a run: all requests of the process wait for it, together, not for ever."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from luigi import rpc

from luigi_tasks.kept_connection import KeptConnections, can_be_kept
from trident.luigid import shown_address

logger = logging.getLogger(__name__)

_RETRY_EVERY_S = 1.0
_SHORTEST_TIMEOUT_S = 1.0


class Patience:
    """How long a luigid has been silent. Shared by all who ask it, so that they do not wait one after the other."""

    def __init__(self, url: str, give_up_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        url: of the luigid.
        give_up_s: seconds for which all requests together wait.
        clock: seconds that only grow.
        """
        self._url = shown_address(url)
        self.give_up_s = give_up_s
        self._clock = clock
        self._silent_since: float | None = None
        self._lock = threading.Lock()

    def answered(self) -> None:
        """It is there."""
        with self._lock:
            if self._silent_since is not None:
                logger.info("%s: luigid answers again", self._url)
            self._silent_since = None

    def left_s(self) -> float:
        """Seconds for which a request that got no answer may still try; none of them begins to count anew."""
        with self._lock:
            if self._silent_since is None:
                self._silent_since = self._clock()
                logger.warning("%s: luigid does not answer; waiting for it for %.0f s", self._url, self.give_up_s)
            return self._silent_since + self.give_up_s - self._clock()

    def given_up(self) -> bool:
        """Whether it has been silent for so long that nobody waits for it any more."""
        with self._lock:
            return self._silent_since is not None and self._clock() - self._silent_since >= self.give_up_s


_patience: dict[str, Patience] = {}


def patience_with(url: str, give_up_s: float) -> Patience:
    """The patience that this process has with the luigid at `url`; every shard asks through connections of its own."""
    return _patience.setdefault(url.rstrip("/"), Patience(url, give_up_s))


class PatientScheduler(rpc.RemoteScheduler):
    """A running luigid. A restarted one is waited for: `rpc-retry-attempts` times `rpc-retry-wait` seconds in all.

    Luigi itself lets each request retry by its own count, and a run has several: the worker's, the pings', and those of
    the tasks that tell how far they are.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)  # type: ignore[no-untyped-call]
        self._patience = patience_with(url, self._rpc_retry_attempts * self._rpc_retry_wait)
        if can_be_kept(url):
            self._fetcher.close()
            self._fetcher: Any = KeptConnections()

    def _fetch(self, url_suffix: str, body: dict[str, str]) -> str:
        """Luigi's one way to luigid.

        Raises:
            RPCError: it was silent for too long.
        """
        full_url = f"{self._url}{url_suffix}"
        timeout_s = _SHORTEST_TIMEOUT_S if self._patience.given_up() else self._connect_timeout
        while True:
            try:
                answer = str(self._fetcher.fetch(full_url, body, timeout_s))
            except self._fetcher.raises as error:
                left_s = self._patience.left_s()
                if left_s <= 0:
                    raise rpc.RPCError(f"no answer for {self._patience.give_up_s:.0f} s: {error}", error) from error
            else:
                self._patience.answered()
                return answer
            time.sleep(min(_RETRY_EVERY_S, left_s))
            timeout_s = min(self._connect_timeout, max(left_s, _SHORTEST_TIMEOUT_S))


class LostScheduler(logging.Filter):
    """Of a luigid that does not answer, Luigi's own log needs a line for each attempt and no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        error = record.exc_info[1] if record.exc_info else None
        if record.module == rpc.__name__.rpartition(".")[2] or isinstance(error, rpc.RPCError):
            record.exc_info = None
            record.exc_text = None
        return True
