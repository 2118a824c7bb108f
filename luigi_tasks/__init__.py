"""The task graph: `luigi --module luigi_tasks RunCohort …`."""

from __future__ import annotations

import logging

import luigi
import luigi.retcodes

from luigi_tasks import events
from luigi_tasks.convert import ConvertPyramidalTiff
from luigi_tasks.patient_scheduler import LostScheduler
from luigi_tasks.pool import PoolPatients
from luigi_tasks.run_cohort import RunCohort
from luigi_tasks.tasks import PatchCoords, PatchFeatures, SegmentSlide, SlideEmbedding
from trident import exit_codes
from trident.log import HideExpectedTracebacks

__all__ = [
    "ConvertPyramidalTiff",
    "PatchCoords",
    "PatchFeatures",
    "PoolPatients",
    "RunCohort",
    "SegmentSlide",
    "SlideEmbedding",
    "events",
]

_RETURN_CODES = {
    "already_running": exit_codes.STOPPED,
    "missing_data": exit_codes.STOPPED,
    "not_run": exit_codes.STOPPED,
    "task_failed": exit_codes.STOPPED,
    "scheduling_error": exit_codes.UNEXPECTED,
    "unhandled_exception": exit_codes.UNEXPECTED,
}
_PATIENCE = {"rpc-retry-attempts": 5, "rpc-retry-wait": 6}
"""Of `luigi` itself with a luigid that does not answer: as long as the tasks of a run have with it."""


def _set_defaults() -> None:
    """What Luigi does otherwise than we want; `luigi.cfg` still wins.

    Its exit code after a failure is 0. And it refuses to start while the same command line runs on this host, where
    our runs on one job directory share the work.
    """
    config = luigi.configuration.get_config()
    if not config.has_option("core", "no_lock") and not config.has_option("core", "no-lock"):
        config.set("core", "no_lock", "true")
    for name, code in _RETURN_CODES.items():
        if not config.has_option("retcode", name):
            config.set("retcode", name, str(code))
    for name, value in _PATIENCE.items():
        if not config.has_option("core", name) and not config.has_option("core", name.replace("-", "_")):
            config.set("core", name, str(value))
    # Luigi knows them as options of its connection alone, and would warn that `core` does not.
    luigi.interface.core.ignore_unconsumed.update(name.replace("-", "_") for name in _PATIENCE)
    interface = logging.getLogger("luigi-interface")
    if not any(isinstance(known, HideExpectedTracebacks) for known in interface.filters):
        interface.addFilter(HideExpectedTracebacks())
        interface.addFilter(LostScheduler())


_set_defaults()
