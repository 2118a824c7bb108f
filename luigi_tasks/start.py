"""Start a cohort from settings, for the `trident` command."""

from __future__ import annotations

import logging

from luigi_tasks.engine import Engine, build, choose_scheduler
from luigi_tasks.jobs import get_job, new_run_id, resolve
from luigi_tasks.run_cohort import exit_code, run_cohort_task
from trident.errors import TridentError
from trident.settings import Settings

logger = logging.getLogger(__name__)


def run_settings(settings: Settings) -> int:
    """Run all slides that the settings name; returns the exit code.

    Raises:
        TridentError: an option is wrong, the slides cannot be listed, or luigid does not answer.
    """
    run_id = new_run_id()
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    job_path = resolve(given, run_id=run_id)
    job = get_job(job_path)
    task = run_cohort_task(job_path, run_id)
    build([task], choose_scheduler(job), Engine(), debug=settings.debug)
    if task.outcome is None:
        raise TridentError("the run ended before its slides were looked at; the log above says why")
    return exit_code(task)
