"""Start a cohort from settings, for the `trident` command."""

from __future__ import annotations

import logging
from typing import Any

from luigi_tasks.engine import Engine, SchedulerChoice, build, choose_scheduler, require_luigid
from luigi_tasks.jobs import get_job, new_run_id, resolve
from luigi_tasks.pool import PoolPatients
from luigi_tasks.run_cohort import exit_code, run_cohort_task
from trident import exit_codes
from trident.errors import TridentError
from trident.settings import Settings

logger = logging.getLogger(__name__)


def run_settings(settings: Settings) -> int:
    """Run all slides that the settings name; returns the exit code.

    Raises:
        TridentError: an option is wrong, the slides cannot be listed, or luigid does not answer.
        Exception: whatever else kept the run from its end.
    """
    run_id = new_run_id()
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    job_path = resolve(given, run_id=run_id)
    job = get_job(job_path)
    task = run_cohort_task(job_path, run_id)
    scheduler = choose_scheduler(job)
    require_luigid(scheduler)
    build([task], scheduler, Engine(), debug=settings.debug)
    if task.outcome is None:
        raise task.problem or TridentError("Luigi did not run the cohort; run again with --debug to see its log")
    return exit_code(task)


def run_pool(values: dict[str, Any]) -> int:
    """Pool the slides of each patient; returns the exit code.

    Args:
        values: options of `PoolPatients`, as somebody gave them.

    Raises:
        TridentError: an option is wrong, or the list of patients cannot be read.
    """
    task = PoolPatients(**values, run_id=new_run_id())
    if task.complete():
        logger.info("nothing to do: all %d patients are done", len(task.stages))
        return exit_codes.OK
    build([task], SchedulerChoice(url=None), Engine())
    if task.failed:
        return exit_codes.FINISHED_WITH_FAILURES if task.skip_failed else exit_codes.STOPPED
    return exit_codes.OK if task.failed == 0 else exit_codes.UNEXPECTED
