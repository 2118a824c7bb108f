"""All slides of a job: list what is done, run the rest in shards, then sweep the outputs and report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from luigi_tasks.engine import Engine, SchedulerChoice, build
from luigi_tasks.events import LEDGER
from luigi_tasks.jobs import get_job, get_stages
from luigi_tasks.tasks import SlideTask, task_for
from trident.job import Job
from trident.stages.base import Condition, Stage, StageResult, Status
from trident.stages.tracking import record_result, state_of
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
        self.scheduler = scheduler
        self.engine = Engine()
        self._waiting_for: Path | None = None

    def statuses(self, slides: Iterable[str] | None = None) -> dict[StageId, Status]:
        """Where each stage that this job makes stands."""
        names = self.job.slides if slides is None else slides
        return {(name, stage.key): stage.status() for name in names for stage in self.stages.all_of(name)}

    def execute(self) -> Outcome:
        """Run what is not done and sweep until nothing moves; failures are in the outcome."""
        started = time.monotonic()
        LEDGER.clear()
        LEDGER.on_failure = None if self.job.settings.skip_errors else self.engine.take_no_more
        self._clean_up()
        before = self.statuses()
        outcome = Outcome(skipped={stage for stage, status in before.items() if status.done})
        self._record_skipped(before)
        self._fetch_weights(before)
        now, patience = before, _PATIENCE
        while pending := self._runnable(now):
            for shard in self._shards(pending):
                build(list(self._tasks(shard, now)), self.scheduler, self.engine, debug=self.job.settings.debug)
                if self._must_stop():
                    break
            swept = {**now, **self.statuses(pending)}
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
            now = {**now, **self.statuses(self._runnable(now))}
        self._fill(outcome, now)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _fetch_weights(self, statuses: dict[StageId, Status]) -> None:
        """Say at once, before any slide is touched, that a model's weights are not to be had."""
        to_make = {Condition.MISSING, Condition.STALE, Condition.OVERWRITE}
        kinds = {key.partition(":")[0] for (_, key), status in statuses.items() if status.condition in to_make}
        self.stages.fetch_weights(kinds)

    def _runnable(self, statuses: dict[StageId, Status]) -> list[str]:
        """Slides with something left to do and no failure in this run, in order."""
        failed = {slide for slide, _ in LEDGER.failures}
        return list(
            dict.fromkeys(slide for (slide, _), status in statuses.items() if not status.done and slide not in failed)
        )

    def _shards(self, slides: list[str]) -> Iterator[list[str]]:
        for start in range(0, len(slides), SHARD):
            yield slides[start : start + SHARD]

    def _tasks(self, slides: list[str], statuses: dict[StageId, Status]) -> Iterator[SlideTask]:
        for slide in slides:
            for key in self.job.stages:
                if not statuses[slide, key].done:
                    yield task_for(key.partition(":")[0], self.job_path, slide)

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
        for (slide, key), status in statuses.items():
            if status.done:
                stage = self.stages.stage(key.partition(":")[0], slide)
                holder = lock_status(stage.output)
                if (holder is None or not holder.is_in_use) and not _has_record(stage):
                    record_result(stage, StageResult(status.why, {"output": stage.output}, skipped=True))

    def _fill(self, outcome: Outcome, after: dict[StageId, Status]) -> None:
        failed_slides: dict[str, str] = {}
        for (slide, key), message in LEDGER.failures.items():
            failed_slides.setdefault(slide, message)
            outcome.failed[slide, key] = message
        made = {stage_id for stage_id, result in LEDGER.results.items() if not result.skipped}
        for stage_id, status in after.items():
            slide = stage_id[0]
            if status.done:
                if stage_id in made:
                    outcome.completed.add(stage_id)
                    outcome.skipped.discard(stage_id)
                else:  # done before, or by another run meanwhile
                    outcome.skipped.add(stage_id)
            elif stage_id not in outcome.failed:
                why = LEDGER.held.get(stage_id, status.why)
                outcome.not_run[stage_id] = "an earlier stage failed" if slide in failed_slides else why


def _has_record(stage: Stage) -> bool:
    task = state_of(stage).read()["tasks"].get(stage.key, {})
    return task.get("status") in {"completed", "skipped"}
