"""Keeps the job directory's `report.html` up to date: while a run goes on, and at its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from trident.errors import TridentError
from trident.job import Job

logger = logging.getLogger(__name__)

EVERY_S = 60.0
"""While a run goes on the report is written this often, and less often where writing it takes long."""
_SHARE = 0.05
"""Share of the time that may go into the report of a run that goes on."""


@contextmanager
def refreshed(job: Job) -> Iterator[None]:
    """Write the report now and then while the block lasts."""
    over = threading.Event()

    def refresh() -> None:
        pause_s = EVERY_S
        while not over.wait(pause_s):
            started = time.monotonic()
            write(job)
            pause_s = max(EVERY_S, (time.monotonic() - started) / _SHARE)

    thread = threading.Thread(target=refresh, name="html-report", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def write(job: Job) -> None:
    """Write the report. That it cannot be written is said, and costs the run nothing else."""
    from trident.viz.report.write import write_report

    try:
        write_report(job.layout)
    except TridentError as error:
        logger.warning("the report is not written: %s", error)
