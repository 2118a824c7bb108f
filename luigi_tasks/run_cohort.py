"""RunCohort: the task over all slides of a job, with its manifest, summary and exit code."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.rpc import RPCError

from luigi_tasks import html_report, report
from luigi_tasks.cohort import CohortRun, Outcome
from luigi_tasks.engine import choose_scheduler, set_exit_code, sigterm_interrupts
from luigi_tasks.events import LEDGER
from luigi_tasks.jobs import PROCESS_RUN_ID, get_job, resolve, usage_errors
from luigi_tasks.options import OptionParameter, with_options
from trident import exit_codes
from trident.errors import CohortError, TridentError
from trident.job import Job
from trident.settings import configure_log
from trident.stages.tracking import describe_error
from trident.store.locks import clear_dead_locks
from trident.store.runs import RunManifest

logger = logging.getLogger(__name__)

_SHOW_EVERY_S = 1.0


@with_options
class RunCohort(luigi.Task):
    """Segment, patch, encode and embed every slide of a directory."""

    job = OptionParameter(description="Job file, instead of options.", identity=True)
    run_id = OptionParameter(description="Name of this run; made up if not given.", identity=True)

    outcome: Outcome | None = None
    _cohort: CohortRun | None = None
    problem: Exception | None = None
    """What kept the run from reaching its end, where that is not a slide's failure."""
    _shown = float("-inf")
    """When luigid's page was last told how far the run is."""

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Luigi's hook where arguments become parameter values: options become a job file here."""
        values = dict(super().get_param_values(params, args, kwargs))  # type: ignore[no-untyped-call]
        job, run_id = values.pop("job"), values.pop("run_id") or PROCESS_RUN_ID
        if job is None:
            with usage_errors():
                given = {name: value for name, value in values.items() if value is not None}
                job = resolve(given, run_id=run_id)
        with usage_errors():
            skip_errors = get_job(str(job)).settings.skip_errors
        set_exit_code(exit_codes.FINISHED_WITH_FAILURES if skip_errors else exit_codes.STOPPED)
        return [("job", str(job)), ("run_id", run_id)]

    def complete(self) -> bool:
        """Every run looks at the outputs anew, so a run is complete only once it has done so."""
        return self.outcome is not None

    def run(self) -> None:
        """Run the cohort and report.

        Raises:
            CohortError: some slide failed.
            TridentError: the run cannot begin, or not go on.
        """
        try:
            with sigterm_interrupts():
                self._run()
        except CohortError:
            raise
        except Exception as error:
            self.problem = error
            if isinstance(error, TridentError) and CmdlineParser.get_instance() is not None:
                logger.error("%s", error)  # Luigi names only the task; the `trident` command shows the error itself
            set_exit_code(exit_codes.USAGE if isinstance(error, TridentError) else exit_codes.UNEXPECTED)
            raise

    def _run(self) -> None:
        job = get_job(self.job)
        configure_log(job.settings)
        cohort = self._cohort = CohortRun(self.job, choose_scheduler(job))
        if job.settings.dry_run:
            sys.stdout.write(report.plan_table(job, cohort.statuses()))
            self.outcome = Outcome()
            return
        manifest = RunManifest.start(job.layout, tool=Path(sys.argv[0]).name, args=_given(job), run_id=self.run_id)
        try:
            self._clear_dead_locks(job)
            LEDGER.listener = self._show_progress
            outcome = cohort.execute()
            self._show_progress(at_once=True)
            report.write_summary(job, outcome, manifest)
        except BaseException as error:
            manifest.finish("error", error=describe_error(error))
            raise
        finally:
            LEDGER.listener = None
        failure = report.failure_line(job, outcome)
        manifest.finish("error" if failure else "completed", error=failure)
        if outcome.completed or outcome.failed or outcome.not_run:
            html_report.write(job)
        logger.info(report.closing_line(job, outcome))
        self.outcome = outcome
        if failure:
            logger.error(failure)
            raise CohortError(failure)

    def _clear_dead_locks(self, job: Job) -> None:
        if job.settings.clear_dead_locks:
            for path, why in clear_dead_locks(
                job.settings.job_dir, job.settings.dead_lock_max_age_hours, report.is_valid_output
            ):
                logger.info("%s: lock removed: %s", path, why)

    def _show_progress(self, *, at_once: bool = False) -> None:
        say: Any = getattr(self, "set_status_message", None)
        show: Any = getattr(self, "set_progress_percentage", None)
        if say is None:  # Luigi sets the two methods only while the task runs
            return
        if self._cohort is None or self._cohort.progress is None:
            return
        if not at_once and time.monotonic() - self._shown < _SHOW_EVERY_S:
            return  # each of the two is a request to luigid, as dear as the task itself
        self._shown = time.monotonic()
        now = self._cohort.progress.snapshot()
        try:
            say(now.line())
            show(100 * (now.stages_done + now.stages_failed) // max(now.stages_total, 1))
        except RPCError as error:  # the work goes on; the worker itself finds out whether luigid comes back
            logger.debug("the run's progress cannot be told to luigid (%s)", error)


def _given(job: Job) -> dict[str, object]:
    """The options that somebody set, for the manifest."""
    return job.settings.model_dump(mode="json", include=job.settings.model_fields_set, exclude_none=True)


def run_cohort_task(job: str, run_id: str) -> RunCohort:
    """The task of one run over a job.

    Args:
        job: path of the job file.
        run_id: name of the run.
    """
    parameters: dict[str, Any] = {"job": job, "run_id": run_id}
    return RunCohort(**parameters)


def exit_code(task: RunCohort) -> int:
    """Exit code of a run that has ended."""
    if task.outcome is None:
        return exit_codes.UNEXPECTED
    if not task.outcome.failed and not task.outcome.not_run:
        return exit_codes.OK
    return exit_codes.FINISHED_WITH_FAILURES if get_job(task.job).settings.skip_errors else exit_codes.STOPPED
