"""What Luigi's events do here: they remember what ended, and how, for the cohort's sweep, and record failures."""

from __future__ import annotations

import logging
from collections.abc import Callable

import luigi

from luigi_tasks.followers import followers
from luigi_tasks.tasks import SlideTask
from trident.errors import (
    ExecutorError,
    LockHeldError,
    NotStartedError,
    PutDownError,
    TaskTimeoutError,
    TridentError,
    UnforeseenError,
)
from trident.log import with_text
from trident.stages.base import Stage, StageResult
from trident.stages.tracking import describe_error, record_failure, state_of
from trident.store.atomic import remove_orphans
from trident.store.locks import OutputLock, lock_status

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

    def failed_slides(self) -> set[str]:
        """Slides with a stage that failed."""
        return {slide for slide, _ in self.failures}

    def clear(self) -> None:
        """Forget everything."""
        self.results.clear()
        self.failures.clear()
        self.held.clear()


LEDGER = Ledger()


def _succeeded(task: SlideTask) -> None:
    assert task.result is not None
    stage = task.stage
    for key, result in (task.result.parts or {stage.key: task.result}).items():
        LEDGER.failures.pop((task.slide, key), None)
        LEDGER.results[task.slide, key] = result
    _ended(task, task.result)


def _failed(task: SlideTask, error: BaseException) -> None:
    if isinstance(error, NotStartedError):  # the run stops: the sweep finds the stage as it was
        return
    stage = task.stage
    if isinstance(error, PutDownError):
        _put_down(stage)
        return
    message = describe_error(error)
    unfinished = [(task.slide, member.key) for member in stage.members if len(stage.members) == 1 or not _done(member)]
    if isinstance(error, LockHeldError):  # another run is at it: no failure of this slide
        if not LEDGER.held.keys() >= set(unfinished):  # it is tried again and again
            logger.info("%s: %s: %s", task.slide, stage.label, message)
        LEDGER.held.update(dict.fromkeys(unfinished, message))
        for follower in followers():
            follower.postponed(task.slide, task.kind)
        return
    LEDGER.failures.update(dict.fromkeys(unfinished, message))
    _say(task, stage, error, message)
    try:
        record_failure(stage, error)
    except TridentError as problem:  # the run's own report still has the failure
        logger.error("%s: %s: the failure cannot be recorded: %s", task.slide, stage.label, problem)
    if isinstance(error, (ExecutorError, TaskTimeoutError)):
        _give_back_locks(stage)
    _ended(task, None)
    if LEDGER.on_failure is not None:
        LEDGER.on_failure()


def _put_down(stage: Stage) -> None:
    """What an executor leaves undone that was killed, since it did not put its work down in time.

    One that did has noted it itself; what its lock now keeps is another run's.
    """
    for member in stage.members:
        try:
            if state_of(member).status(member.key) != "running" and lock_status(member.output) is None:
                continue
            with OutputLock(member.output):
                if state_of(member).status(member.key) == "running":
                    record_failure(member, KeyboardInterrupt())
                remove_orphans(member.output.parent)
        except TridentError as error:
            logger.debug("%s: %s", member.output, error)


def _give_back_locks(stage: Stage) -> None:
    """Take over the locks of a process that died under a stage, and give them back."""
    for member in stage.members:
        try:
            with OutputLock(member.output):
                continue
        except TridentError as error:
            logger.debug("%s: %s", member.output, error)


def _done(stage: Stage) -> bool:
    try:
        return stage.status().done
    except TridentError:
        return False


def _say(task: SlideTask, stage: Stage, error: BaseException, message: str) -> None:
    if isinstance(error, UnforeseenError):
        with_text(logger, logging.ERROR, f"{task.slide}: {stage.label} failed: {message}", error.trace)
        return
    unforeseen = not isinstance(error, TridentError)
    logger.error("%s: %s failed: %s", task.slide, stage.label, message, exc_info=error if unforeseen else None)


def _ended(task: SlideTask, result: StageResult | None) -> None:
    for follower in followers():
        follower.end(task.slide, task.kind, result)
    if LEDGER.listener is not None:
        LEDGER.listener()


for _event, _handler in (
    (luigi.Event.SUCCESS, _succeeded),
    (luigi.Event.FAILURE, _failed),
):
    SlideTask.event_handler(_event)(_handler)  # type: ignore[no-untyped-call]
