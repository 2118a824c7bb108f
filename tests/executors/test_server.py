"""trident/executors/server.py: the signal that ends an executor, whatever its threads are at."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trident.executors.executor import Executor, process_launcher

_SHOTS = """
import signal
from trident.executors.server import _End

def give(*_):
    ends[-1].give()

ends = []
signal.signal(signal.SIGALRM, give)
for shot in range(3000):
    ends.append(_End())
    signal.setitimer(signal.ITIMER_REAL, 0.00001 + shot % 100 * 0.000003)
    while not ends[-1].wait(0.00002):
        pass
"""


def test_a_handler_may_give_the_word_in_the_middle_of_the_wait() -> None:
    subprocess.run([sys.executable, "-c", _SHOTS], check=True, timeout=600)


@pytest.mark.parametrize("whose", ["main thread", "another thread"])
def test_a_signal_ends_an_executor_whichever_thread_gets_it(
    whose: str, runtime_folder: Path, wait_until: Callable[..., None]
) -> None:
    """The kernel may give it to any; only the main thread runs Python's handlers, and it sleeps."""
    executor = Executor("cpu0", runtime_folder / "s", -1, process_launcher({}))
    tasks = [int(task.name) for task in Path(f"/proc/{executor.pid}/task").iterdir()]
    thread = executor.pid if whose == "main thread" else max(tasks)
    assert (thread == executor.pid) == (whose == "main thread")
    time.sleep(0.2)  # it soon has nothing to do but wait for its end
    try:
        assert ctypes.CDLL(None).tgkill(executor.pid, thread, int(signal.SIGTERM)) == 0
        wait_until(lambda: not executor.is_alive)
    finally:
        executor.close()
        executor.wait(time.monotonic() + 10)
