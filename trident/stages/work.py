"""Runs one stage of one slide of a job and records how it went; the same in every process that does work."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from trident.errors import NotStartedError, TridentError
from trident.job import load_job
from trident.stages.base import Progress, Stage, StageResult, run_stage
from trident.stages.features_group import PatchFeaturesGroup, run_group
from trident.stages.plan import JobStages
from trident.stages.tracking import record_failure, record_result, record_start
from trident.store import atomic, locks

logger = logging.getLogger(__name__)

_at_work: set[Stage] = set()
"""Stages of this process that have begun and not ended."""
_noting = threading.Lock()
"""Held while the beginning or the end of a stage is noted, here and in its state file, so that the two agree."""
_ending = False
"""Set when this process is about to end in the middle of its work: then no stage begins any more."""


@lru_cache(maxsize=4)
def stages_for_work(job_path: str, device_index: int, host: tuple[tuple[str, Any], ...] = ()) -> JobStages:
    """The stages of a job on one device of this process.

    Args:
        job_path: path of the job file.
        device_index: GPU, counted among those that this process was granted; -1: CPU.
        host: options of this host, which the job file does not have.
    """
    return JobStages(load_job(Path(job_path), host), device_index=device_index)


def run_recorded(stage: Stage, progress: Progress | None = None) -> StageResult:
    """Run a stage, with its beginning and its end in the slide's state file, while the lock is held.

    A failure is left to be recorded by whoever asked for the stage.

    Raises:
        NotStartedError: this process is about to end.
        TridentError: as `run_stage`.
    """
    try:
        if isinstance(stage, PatchFeaturesGroup):
            return run_group(stage, progress, on_start=_begin, on_end=_end, on_failure=_fail)
        return run_stage(stage, progress, on_start=lambda: _begin(stage), on_end=lambda result: _end(stage, result))
    finally:
        _at_work.difference_update(stage.members)


def _begin(stage: Stage) -> None:
    with _noting:
        if _ending:
            raise NotStartedError(f"{stage.source.name}: {stage.label}: not begun: this process is ending")
        _at_work.add(stage)
        record_start(stage)


def _end(stage: Stage, result: StageResult) -> None:
    with _noting:
        record_result(stage, result)
        _at_work.discard(stage)


def _fail(stage: Stage, error: BaseException) -> None:
    """One of several that run together failed; the others go on."""
    with _noting:
        if not _ending:  # else it is put down already: what the end of the process does to it is not its failure
            record_failure(stage, error)
        _at_work.discard(stage)


def abandon_work() -> None:
    """Leave nothing behind before the process ends in the middle of its work.

    The states of the stages at work say that they were interrupted; their locks and temporary files are removed. The
    threads that do the work must not get another turn after this: end the process at once. Not to be called by a
    signal's handler, which may have stopped a thread that notes something.
    """
    global _ending  # noqa: PLW0603 - a process ends once
    with _noting:
        _ending = True
        for stage in list(_at_work):
            try:
                record_failure(stage, KeyboardInterrupt())
            except TridentError as error:
                logger.warning("%s: %s: %s", stage.source.name, stage.label, error)
    atomic.discard_all()
    locks.release_all()
