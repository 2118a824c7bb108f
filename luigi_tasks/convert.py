"""ConvertPyramidalTiff: files of any readable format to pyramidal TIFF, and on into RunCohort where asked for."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import luigi

from luigi_tasks.engine import Engine, SchedulerChoice, build, set_exit_code, sigterm_interrupts
from luigi_tasks.jobs import new_run_id, usage_errors
from luigi_tasks.options import OptionParameter
from luigi_tasks.start import run_settings
from trident import exit_codes, log
from trident.commands.convert import following_settings
from trident.convert.options import ConvertOptions, load_options
from trident.convert.plan import find_files
from trident.convert.run import Outcome, convert_all
from trident.convert.stage import ConvertLayout, ConvertStage
from trident.convert.summary import write_tables
from trident.errors import CohortError, StoreError, TridentError
from trident.settings import Settings, is_flag, is_list
from trident.store.atomic import remove_orphans
from trident.store.locks import clear_dead_locks
from trident.store.runs import RunManifest

logger = logging.getLogger(__name__)

_DEAD_LOCK_MAX_AGE_HOURS = 24.0


class ConvertPyramidalTiff(luigi.Task):
    """Convert the files of a directory to pyramidal TIFF."""

    then_process = OptionParameter(
        description="Options of RunCohort in one text, such as `--task all --mag 20`: the TIFFs are then processed.",
        identity=True,
    )
    run_id = OptionParameter(description="Name of this run; two runs are two tasks.", identity=True)

    outcomes: list[Outcome] | None = None
    exit_code = exit_codes.UNEXPECTED
    """Of the run, once it has ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        with usage_errors():
            given = {name: value for name, value in self.param_kwargs.items() if value is not None}
            self.name_of_run = given.pop("run_id", None) or new_run_id()
            following = given.pop("then_process", None)
            self.options = load_options(**given)
            self.layout = ConvertLayout(self.options.job_dir)
            # Now, and not hours later when the files are converted.
            self.following = None if following is None else _following(following, self.layout)
            overwrite_run = self.name_of_run if self.options.overwrite else None
            self.stages = [ConvertStage(self.options, source, overwrite_run) for source in find_files(self.options)]
        # Now: with `--workers 2` the task runs in a forked process, whose settings Luigi does not see.
        set_exit_code(exit_codes.FINISHED_WITH_FAILURES)

    def complete(self) -> bool:
        """Every run looks at the TIFFs anew and writes the tables, so it is complete only once it has done so."""
        return self.outcomes is not None

    def run(self) -> None:
        """Convert what is not done, write the tables, and process the TIFFs.

        Raises:
            CohortError: some file could not be converted, or some slide not be processed.
        """
        log.configure()
        given = self.options.model_dump(mode="json", include=self.options.model_fields_set, exclude_none=True)
        manifest = RunManifest.start(self.layout, tool=Path(sys.argv[0]).name, args=given, run_id=self.name_of_run)
        try:
            with sigterm_interrupts():
                failure = self._convert()
        except BaseException as error:
            manifest.finish("error", error=type(error).__name__ if isinstance(error, KeyboardInterrupt) else str(error))
            set_exit_code(exit_codes.STOPPED)
            raise
        manifest.finish("error" if failure else "completed", error=failure)
        self.exit_code = exit_codes.FINISHED_WITH_FAILURES if failure else exit_codes.OK
        if self.following is not None:
            self._process(self.following)
        if self.exit_code != exit_codes.OK:
            set_exit_code(self.exit_code)
            raise CohortError(failure or "the converted files were not all processed; see the log above")

    def _convert(self) -> str | None:
        """Convert; says in one line what failed."""
        remove_orphans(self.layout.job_dir)
        if self.options.clear_dead_locks:
            clear_dead_locks(self.layout.job_dir, _DEAD_LOCK_MAX_AGE_HOURS, self._is_valid)
        self.outcomes = convert_all(self.stages, self.options.num_workers, self._report)
        write_tables(self.layout, self.outcomes)
        counts = {name: sum(one.status == name for one in self.outcomes) for name in ("converted", "skipped", "error")}
        told = f"{counts['converted']} converted, {counts['skipped']} were done, {counts['error']} failed"
        logger.info("%d files: %s; see %s", len(self.outcomes), told, self.layout.summary_table)
        if not counts["error"]:
            return None
        first = next(one for one in self.outcomes if one.status == "error")
        return f"{counts['error']} of {len(self.outcomes)} files failed (first: {first.message})"

    def _process(self, settings: Settings) -> None:
        """Hand the good TIFFs to RunCohort; a failure of the conversion stays a failure."""
        assert self.outcomes is not None
        if all(outcome.status == "error" for outcome in self.outcomes):
            logger.error("no file was converted: there is nothing to process")
            return
        code = run_settings(settings)
        if code != exit_codes.OK:
            self.exit_code = code

    def _is_valid(self, path: Path) -> bool:
        """Whether an output beside a lock is whole."""
        known = {stage.output: stage for stage in self.stages}
        try:
            return path in known and known[path].read_recipe() is not None
        except StoreError:
            return False

    def _report(self, done: int, total: int) -> None:
        say: Any = getattr(self, "set_status_message", None)
        show: Any = getattr(self, "set_progress_percentage", None)
        if say is not None:  # Luigi sets the two methods only while the task runs
            say(f"{done} of {total} files")
            show(100 * done // max(total, 1))


for _name, _field in ConvertOptions.model_fields.items():
    _parameter = OptionParameter(
        str(_field.description), flag=is_flag(_field), several=is_list(_field), identity=_name != "num_workers"
    )
    # What Python itself does for the names in a class body.
    _parameter.__set_name__(ConvertPyramidalTiff, _name)  # type: ignore[no-untyped-call]
    setattr(ConvertPyramidalTiff, _name, _parameter)


def _following(given: Any, layout: ConvertLayout) -> Settings:
    arguments = shlex.split(given) if isinstance(given, str) else list(given)
    return following_settings(arguments, layout.job_dir, layout.converted_list)


def run_convert(values: dict[str, Any]) -> int:
    """Convert the files of a directory; returns the exit code.

    Args:
        values: options of `ConvertPyramidalTiff`, as somebody gave them.

    Raises:
        TridentError: an option is wrong, the files cannot be listed, or the run cannot go on.
    """
    task = ConvertPyramidalTiff(**values, run_id=new_run_id())
    problem: list[BaseException] = []
    task.on_failure = problem.append  # type: ignore[method-assign]
    build([task], SchedulerChoice(url=None), Engine())
    if problem and not isinstance(problem[0], CohortError):
        raise problem[0]
    if task.outcomes is None:
        raise TridentError("Luigi did not run the conversion; run again")
    return task.exit_code
