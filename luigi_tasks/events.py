"""What Luigi's events do here: they remember what ended, and how, for the cohort's sweep, and record failures."""

from __future__ import annotations

import logging
from collections.abc import Callable

import luigi

from luigi_tasks.tasks import SlideTask
from trident.errors import LockHeldError, TridentError
from trident.stages.base import StageResult
from trident.stages.tracking import describe_error, record_failure

logger = logging.getLogger(__name__)


class Ledger:
    """What happened in this process to each (slide, stage key) since the last `clear`."""

    def __init__(self) -> None:
        self.results: dict[tuple[str, str], StageResult] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.held: dict[tuple[str, str], str] = {}
        """Stages whose output another process had locked, and which."""
        self.listener: Callable[[], None] | None = None
        """Called after each stage that ended."""
        self.on_failure: Callable[[], None] | None = None
        """Called after each stage that failed."""

    def clear(self) -> None:
        """Forget everything."""
        self.results.clear()
        self.failures.clear()
        self.held.clear()


LEDGER = Ledger()


def _succeeded(task: SlideTask) -> None:
    assert task.result is not None
    stage = task.stage
    LEDGER.failures.pop((task.slide, stage.key), None)
    LEDGER.results[task.slide, stage.key] = task.result
    _tell_listener()


def _failed(task: SlideTask, error: BaseException) -> None:
    stage = task.stage
    message = describe_error(error)
    if isinstance(error, LockHeldError):  # another run is at it: no failure of this slide
        if (task.slide, stage.key) not in LEDGER.held:  # it is tried again and again
            logger.info("%s: %s: %s", task.slide, stage.label, message)
        LEDGER.held[task.slide, stage.key] = message
        return
    LEDGER.failures[task.slide, stage.key] = message
    unforeseen = not isinstance(error, TridentError)
    logger.error("%s: %s failed: %s", task.slide, stage.label, message, exc_info=error if unforeseen else None)
    try:
        record_failure(stage, error)
    except TridentError as problem:  # the run's own report still has the failure
        logger.error("%s: %s: the failure cannot be recorded: %s", task.slide, stage.label, problem)
    _tell_listener()
    if LEDGER.on_failure is not None:
        LEDGER.on_failure()


def _tell_listener() -> None:
    if LEDGER.listener is not None:
        LEDGER.listener()


for _event, _handler in (
    (luigi.Event.SUCCESS, _succeeded),
    (luigi.Event.FAILURE, _failed),
):
    SlideTask.event_handler(_event)(_handler)  # type: ignore[no-untyped-call]
