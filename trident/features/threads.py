"""Threads that do not fight over the processors. Imports torch: import this module lazily.

torch computes one operation with a team of threads that wait for each other by spinning. A team beside busy readers, or
one team in each of several threads, wastes most of the time: on two processors, one reader slowed a two-thread encoder
down fivefold. So wherever there are several threads here, torch uses one in each of them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

_MAX_DEFAULT_WORKERS = 16
_starting = threading.Lock()
"""Two pools that start at once would take each other's lowered number for the usual one."""


def default_workers() -> int:
    """Reader threads where no number is asked for: one for each processor that this process may use, 16 at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MAX_DEFAULT_WORKERS)


def single_core_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of `count` running threads, named `name`, in each of which torch computes on one core.

    torch keeps that number both per thread and as the default of new threads: it is lowered while the threads start.
    """
    executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)
    everyone = threading.Barrier(count + 1)

    def adopt() -> None:
        torch.get_num_threads()  # a thread takes the default over when it first asks
        with contextlib.suppress(threading.BrokenBarrierError):
            everyone.wait()

    with _starting:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for _ in range(count):
                executor.submit(adopt)
            everyone.wait()
        except BaseException:
            everyone.abort()
            executor.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(before)
    return executor
