"""The tasks of one slide. Each says what it needs and what it makes, and calls one function of the library."""

from __future__ import annotations

import logging
import time
from typing import Any, ClassVar

import luigi
from luigi.rpc import RPCError

from luigi_tasks.followers import followers
from luigi_tasks.jobs import get_job, get_stages, resolve, slide_positions, usage_errors
from luigi_tasks.options import OptionParameter, with_options
from luigi_tasks.targets import StageTarget
from luigi_tasks.workforce import run_task
from trident.errors import SettingsError, TridentError
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, STAGE_KINDS
from trident.stages.base import Progress, Stage, StageResult
from trident.stages.tracking import describe_error, record_failure

logger = logging.getLogger(__name__)

_REPORT_EVERY_S = 1.0
_LOG_EVERY_S = 10.0


class SlideTask(luigi.Task):
    """One stage for one slide of a job.

    Two parameters make its identity: the job file and the slide's name. On a command line the options stand in for the
    job file: they are resolved into one.
    """

    kind: ClassVar[str]
    result: StageResult | None = None

    slide = OptionParameter(description="Name of the slide in the job; not needed with --slide-path.", identity=True)
    job = OptionParameter(description="Job file, instead of options.", identity=True)

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Luigi's hook where arguments become parameter values: options become a job file here."""
        if kwargs.keys() == {"job", "slide"} and not args:  # the rest would be looked up, option by option, for nothing
            return [("job", str(kwargs["job"])), ("slide", kwargs["slide"])]
        values = dict(super().get_param_values(params, args, kwargs))  # type: ignore[no-untyped-call]
        slide, job = values.pop("slide"), values.pop("job")
        with usage_errors():
            if job is None:
                given = {name: value for name, value in values.items() if value is not None}
                if "task_timeout" in given:
                    raise SettingsError("--task-timeout is an option of RunCohort: a task by itself has no executor")
                kinds = None if "task" in given else STAGE_KINDS[: STAGE_KINDS.index(cls.kind) + 1]
                job = resolve(given, kinds=kinds)
                if get_job(job).settings.dry_run:
                    raise SettingsError("--dry-run is an option of RunCohort: with --slide-path it lists one slide")
            return [("job", str(job)), ("slide", _slide_of(str(job), slide))]

    @property
    def stage(self) -> Stage:
        """The stage that this task runs."""
        return get_stages(self.job).stage(self.kind, self.slide)

    @property
    def priority(self) -> int:  # type: ignore[override]
        """Slides in order, later stages first; always positive.

        Embeddings by a model with weights come last, all together: patch and slide encoder then take turns in memory
        once, not once a slide.
        """
        position = slide_positions(self.job)[self.slide]
        last = self.kind == SLIDE_FEATURES and get_stages(self.job).slide_encoder_has_weights
        rank = 0 if last else _RANK[self.kind] + 1
        return rank * 1_000_000 + len(slide_positions(self.job)) - position

    def requires(self) -> luigi.Task | list[luigi.Task]:
        """The stage before this one; none where the job only uses its output, which the stage itself looks for."""
        needs = self.stage.needs
        if needs is None or not get_job(self.job).makes(needs.kind):
            return []
        task = task_for(needs.kind, self.job, self.slide)
        if len(task.stage.members) > 1 and _all_done(needs):
            return []  # one of several encoders of a pass: the others, which may have failed, are not needed here
        return task

    def output(self) -> StageTarget:
        """What this task makes."""
        return StageTarget(self.stage)

    def complete(self) -> bool:
        """Whether the output is there with the right recipe."""
        return self.output().exists()

    def run(self) -> None:
        """Make the output."""
        stage = self.stage
        try:
            self.result = run_task(
                self.job,
                self.kind,
                self.slide,
                self._report(),
                uses_device=stage.uses_device,
                on_lane=self._begun,
            )
        except KeyboardInterrupt as interrupt:  # Luigi passes it on without its FAILURE event
            record_failure(stage, interrupt)
            raise

    def on_failure(self, exception: BaseException) -> str:
        """What luigid's page shows of a failure: one line for an expected one, else the traceback."""
        if isinstance(exception, TridentError):
            return describe_error(exception)
        return str(super().on_failure(exception))  # type: ignore[no-untyped-call]

    def _begun(self, lane: str) -> None:
        for follower in followers():
            follower.begin(self.slide, self.kind, lane)

    def _report(self) -> Progress:
        """Progress for the scheduler's page; Luigi sets the two methods only while the task runs."""
        say: Any = getattr(self, "set_status_message", None)
        show: Any = getattr(self, "set_progress_percentage", None)
        last = logged = started = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal last, logged, say
            for follower in followers():
                follower.advance(self.slide, self.kind, done, total)
            now = time.monotonic()
            if now - logged >= _LOG_EVERY_S:
                logged = now
                rate = done / (now - started)
                logger.info("%s: %s: %d of %d (%.0f/s)", self.slide, self.stage.label, done, total, rate)
            if say is None or now - last < _REPORT_EVERY_S:  # a request to luigid costs as much as the end of a task
                return
            last = now
            try:
                say(f"{self.slide}: {done} of {total}")
                show(100 * done // max(total, 1))
            except RPCError as error:  # the work goes on; the worker itself finds out whether luigid comes back
                logger.warning("%s: its progress cannot be told to luigid (%s)", self.slide, error)
                say = None

        return report


@with_options
class SegmentSlide(SlideTask):
    """Find the tissue of one slide."""

    kind = SEGMENTATION


@with_options
class PatchCoords(SlideTask):
    """Cut the tissue of one slide into patches."""

    kind = COORDS


@with_options
class PatchFeatures(SlideTask):
    """Encode the patches of one slide."""

    kind = PATCH_FEATURES


@with_options
class SlideEmbedding(SlideTask):
    """Pool the patch features of one slide into one embedding."""

    kind = SLIDE_FEATURES


TASK_OF_KIND: dict[str, type[SlideTask]] = {
    SEGMENTATION: SegmentSlide,
    COORDS: PatchCoords,
    PATCH_FEATURES: PatchFeatures,
    SLIDE_FEATURES: SlideEmbedding,
}
_RANK = {kind: rank for rank, kind in enumerate(TASK_OF_KIND)}


def task_for(kind: str, job: str, slide: str) -> SlideTask:
    """The task of one stage for one slide.

    Args:
        kind: of the stage.
        job: path of the job file.
        slide: name of the slide in the job.
    """
    parameters: dict[str, Any] = {"job": job, "slide": slide}
    return TASK_OF_KIND[kind](**parameters)


def _all_done(stage: Stage | None) -> bool:
    """Whether a stage and all before it are done, so that it stays as it is."""
    while stage is not None:
        if not stage.status().done:
            return False
        stage = stage.needs
    return True


def _slide_of(job: str, slide: str | None) -> str:
    slides = list(get_job(job).slides)
    if slide is None and len(slides) == 1:
        return slides[0]
    if slide is None:
        raise SettingsError(f"the job has {len(slides)} slides; name one with --slide, or give --slide-path")
    if slide not in slides:
        raise SettingsError(f"--slide {slide}: the job has no slide of this name")
    return slide
