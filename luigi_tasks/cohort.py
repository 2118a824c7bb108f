"""All slides of a job: list what is done, run the rest in shards, then sweep the outputs and report."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from luigi.task import flatten

from luigi_tasks.display import display
from luigi_tasks.engine import Engine, SchedulerChoice, build
from luigi_tasks.events import LEDGER
from luigi_tasks.followers import followed
from luigi_tasks.html_report import refreshed
from luigi_tasks.jobs import get_job, get_stages
from luigi_tasks.progress import RunProgress
from luigi_tasks.slide_cache import slide_cache
from luigi_tasks.tasks import SlideTask, task_for
from luigi_tasks.workforce import executors
from trident.executors.pool import Pool
from trident.job import Job
from trident.stages.base import Condition, Stage, StageResult, Status
from trident.stages.survey import Survey
from trident.stages.tracking import record_result
from trident.store.atomic import remove_orphans
from trident.store.locks import lock_status
from trident.store.processes import Liveness

logger = logging.getLogger(__name__)

SHARD = 100
"""Slides in one graph: the scheduler's cost per request grows with the tasks that wait."""

_POLL_S = 2.0
_PATIENCE = 6
"""Looks, without anything moving, before what another run may be at is given up; a luigid may also need ten seconds
until it believes that what was done a moment ago is not done any more."""

StageId = tuple[str, str]
"""(slide name, stage key)"""


@dataclass
class Outcome:
    """How each stage of each slide ended, from the outputs themselves."""

    completed: set[StageId] = field(default_factory=set)
    skipped: set[StageId] = field(default_factory=set)
    failed: dict[StageId, str] = field(default_factory=dict)
    not_run: dict[StageId, str] = field(default_factory=dict)
    timings: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """By stage key, the seconds by phase of each slide that this run made."""
    seconds: float = 0.0

    @property
    def failed_slides(self) -> list[str]:
        """Slides with a failed stage, in order."""
        return list(dict.fromkeys(slide for slide, _ in self.failed))


class CohortRun:
    """One run over the slides of a job."""

    def __init__(self, job_path: str, scheduler: SchedulerChoice) -> None:
        self.job_path = job_path
        self.job: Job = get_job(job_path)
        self.stages = get_stages(job_path)
        self.survey = Survey(self.stages)
        self.scheduler = scheduler
        self.progress: RunProgress | None = None
        """How far the run is, once it has something to do."""
        self._waiting_for: Path | None = None

    def statuses(self, slides: Iterable[str] | None = None) -> dict[StageId, Status]:
        """Where each stage that this job makes stands."""
        return self.survey.statuses(self.job.slides if slides is None else slides)

    def execute(self) -> Outcome:
        """Run what is not done and sweep until nothing moves; failures are in the outcome."""
        started = time.monotonic()
        LEDGER.clear()
        self._clean_up()
        before = self.statuses()
        outcome = Outcome(skipped={stage for stage, status in before.items() if status.done})
        self._record_skipped(before)
        self._fetch_weights(before)
        after = before
        if self._runnable(before):
            self.progress = RunProgress(self._stages_left(before))
            with (
                slide_cache(self.job, self.stages.context.cache, before),
                executors(self.job) as pool,
                followed(self.progress),
                display(self.progress, self.job.settings),
                refreshed(self.job),
            ):
                after = self._work(before, pool)
        self._fill(outcome, before, after)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _stages_left(self, statuses: dict[StageId, Status]) -> dict[str, int]:
        """By slide, how many tasks this run has for it."""
        kinds = {(slide, key.partition(":")[0]) for (slide, key), status in statuses.items() if not status.done}
        return dict(Counter(slide for slide, _ in kinds))

    def _work(self, before: dict[StageId, Status], pool: Pool | None) -> dict[StageId, Status]:
        """Run shard after shard, sweep, and again while something moves; gives how the stages stand then."""
        engine = Engine(slots=pool.slots if pool else 0)

        def stop() -> None:
            engine.take_no_more()
            if pool:
                pool.refuse()

        LEDGER.on_failure = None if self.job.settings.skip_errors else stop
        now, patience = before, _PATIENCE
        while pending := self._runnable(now):
            for shard in self._shards(pending):
                build(list(self._tasks(shard, now)), self.scheduler, engine, debug=self.job.settings.debug)
                if self._must_stop():
                    break
            swept = {**now, **self._swept(pending)}
            # A stage made anew may turn later ones, which were done, into stale ones: counting would not show it.
            moved = any(status.done and not now[stage_id].done for stage_id, status in swept.items())
            now = swept
            if self._must_stop():
                break
            if moved:
                patience = _PATIENCE
            elif self._runnable(now):
                patience = _PATIENCE if self._others_are_at(now) else patience - 1
                if patience < 0:
                    break
                time.sleep(_POLL_S)
            now = {**now, **self._swept(self._runnable(now))}
        if LEDGER.failures or (pool and pool.has_lost_one):
            self._clean_up()  # after processes that died
        return now

    def _swept(self, slides: Iterable[str]) -> dict[StageId, Status]:
        """How the stages stand; with `--overwrite` what this run made is done, even if another made it anew since."""
        return {
            stage_id: replace(status, condition=Condition.DONE)
            if status.condition is Condition.OVERWRITE and _was_made(stage_id)
            else status
            for stage_id, status in self.statuses(slides).items()
        }

    def _fetch_weights(self, statuses: dict[StageId, Status]) -> None:
        """Say at once, before any slide is touched, that a model's weights are not to be had."""
        to_make = {Condition.MISSING, Condition.STALE, Condition.OVERWRITE}
        kinds = {key.partition(":")[0] for (_, key), status in statuses.items() if status.condition in to_make}
        self.stages.fetch_weights(kinds)

    def _runnable(self, statuses: dict[StageId, Status]) -> list[str]:
        """Slides with something left to do that does not wait for a failure of this run, in order."""
        failed = LEDGER.failed_slides()
        left = (stage_id for stage_id, status in statuses.items() if not status.done)
        return list(dict.fromkeys(stage_id[0] for stage_id in left if self._may_begin(stage_id, failed)))

    def _may_begin(self, stage_id: StageId, failed_slides: Collection[str]) -> bool:
        """Whether neither this stage nor one that it needs has failed in this run.

        An embedding goes on where another patch encoder of the same pass failed than the one it needs.
        """
        slide, key = stage_id
        if slide not in failed_slides:
            return True
        stage: Stage | None = self.stages.of_key(key, slide)
        while stage is not None and (slide, stage.key) not in LEDGER.failures:
            stage = stage.needs
        return stage is None

    def _shards(self, slides: list[str]) -> Iterator[list[str]]:
        for start in range(0, len(slides), SHARD):
            yield slides[start : start + SHARD]

    def _tasks(self, slides: list[str], statuses: dict[StageId, Status]) -> Iterator[SlideTask]:
        """The tasks to ask Luigi for: the last of each chain, since it adds what a task needs by itself.

        Asked for each of a chain's four tasks, it would announce ten.
        """
        failed = LEDGER.failed_slides()
        for slide in slides:
            left = (key for key in self.job.stages if not statuses[slide, key].done)
            # several encoders are one task: each patch is read once
            kinds = dict.fromkeys(key.partition(":")[0] for key in left if self._may_begin((slide, key), failed))
            tasks = [task_for(kind, self.job_path, slide) for kind in kinds]
            needed = {before.task_id for task in tasks for before in flatten(task.requires())}
            yield from (task for task in tasks if task.task_id not in needed)

    def _must_stop(self) -> bool:
        return bool(LEDGER.failures) and not self.job.settings.skip_errors

    def _others_are_at(self, statuses: dict[StageId, Status]) -> bool:
        """Whether other runs hold locks on what is left."""
        locked = [
            (stage, holder)
            for slide in self._runnable(statuses)
            for stage in self._chain(slide)
            if (holder := lock_status(stage.output)) is not None
            and (holder.is_in_use or holder.state is Liveness.ALIVE)
        ]
        if not locked:
            return False
        stage, holder = locked[0]
        if self._waiting_for != stage.output:
            self._waiting_for = stage.output
            logger.info("%s: %s: waiting for another run (%s)", stage.source.name, stage.label, holder.describe())
        return True

    def _chain(self, slide: str) -> Iterator[Stage]:
        for stage in self.stages.all_of(slide):
            current: Stage | None = stage
            while current is not None:
                yield current
                current = current.needs

    def _clean_up(self) -> None:
        layout = self.job.layout
        folders: set[Path] = {layout.thumbnail("x").parent, layout.contours_image("x").parent, layout.states_dir}
        folders |= {layout.coords_image("x").parent, layout.coords("x").parent, layout.job_dir, layout.grid_dir}
        folders |= {layout.runs_dir, self.job.path.parent}
        if self.job.slides:
            folders |= {stage.output.parent for stage in self.stages.all_of(next(iter(self.job.slides)))}
        for folder in folders:
            if folder.is_dir():
                for path in remove_orphans(folder):
                    logger.info("%s: left by a run that died, removed", path)

    def _record_skipped(self, statuses: dict[StageId, Status]) -> None:
        """A stage that is done and has no record (another program's output) gets one."""
        done = (stage_id for stage_id, status in statuses.items() if status.done)
        for stage in self.survey.unrecorded(done):
            holder = lock_status(stage.output)
            if holder is None or not holder.is_in_use:
                why = statuses[stage.source.name, stage.key].why
                record_result(stage, StageResult(why, {"output": stage.output}, skipped=True))
        self.survey.keep()

    def _fill(self, outcome: Outcome, before: dict[StageId, Status], after: dict[StageId, Status]) -> None:
        self.survey.keep()
        failed_slides: dict[str, str] = {}
        for (slide, key), message in LEDGER.failures.items():
            failed_slides.setdefault(slide, message)
            outcome.failed[slide, key] = message
        made = {stage_id for stage_id, result in LEDGER.results.items() if not result.skipped}
        for (_, key), result in LEDGER.results.items():
            if result.timings and not result.skipped:
                outcome.timings.setdefault(key, []).append(result.timings)
        for stage_id, status in after.items():
            slide = stage_id[0]
            if status.done:
                # An encoder that is done though another one's failure ended their task was made by this run too.
                if stage_id in made or (slide in failed_slides and not before[stage_id].done):
                    outcome.completed.add(stage_id)
                    outcome.skipped.discard(stage_id)
                else:  # done before, or by another run meanwhile
                    outcome.skipped.add(stage_id)
            elif stage_id not in outcome.failed:
                why = LEDGER.held.get(stage_id, status.why)
                outcome.not_run[stage_id] = "an earlier stage failed" if slide in failed_slides else why


def _was_made(stage_id: StageId) -> bool:
    result = LEDGER.results.get(stage_id)
    return result is not None and not result.skipped
