"""Runs one stage of one slide of a job and records how it went; the same in every process that does work."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from trident.errors import TridentError
from trident.job import load_job
from trident.stages.base import Progress, Stage, StageResult, run_stage
from trident.stages.features_group import PatchFeaturesGroup, run_group
from trident.stages.plan import JobStages
from trident.stages.tracking import record_failure, record_result, record_start
from trident.store import atomic, locks

logger = logging.getLogger(__name__)

_at_work: set[Stage] = set()
"""Stages of this process that have begun and not ended; a set's own operations are atomic between threads."""


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
        TridentError: as `run_stage`.
    """

    def begin(one: Stage = stage) -> None:
        record_start(one)
        _at_work.add(one)

    try:
        if isinstance(stage, PatchFeaturesGroup):
            return run_group(stage, progress, on_start=begin, on_end=record_result, on_failure=record_failure)
        return run_stage(stage, progress, on_start=begin, on_end=lambda result: record_result(stage, result))
    finally:
        _at_work.difference_update(stage.members)


def abandon_work() -> None:
    """Leave nothing behind before the process ends in the middle of its work.

    The states of the stages at work say that they were interrupted; their locks and temporary files are removed. The
    threads that do the work must not get another turn after this: end the process at once.
    """
    for stage in list(_at_work):
        try:
            record_failure(stage, KeyboardInterrupt())
        except TridentError as error:
            logger.warning("%s: %s: %s", stage.source.name, stage.label, error)
    atomic.discard_all()
    locks.release_all()
