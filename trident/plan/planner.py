"""What a run would do: for each slide and stage whether it runs, and what that takes. Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from trident.encoders.patch.registry import spec as patch_spec
from trident.encoders.slide.registry import spec as slide_spec
from trident.features.threads import default_workers
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, Job
from trident.plan.actions import MAYBE, RUN, SKIP, STOP, action_of, redone_before, with_caveat
from trident.plan.disk import images_bytes, stage_bytes
from trident.plan.look import Look, look_at
from trident.plan.rates import StageRate, seconds_of_pass
from trident.plan.records import Records, read_records
from trident.plan.weights import WeightsNeed, weights_needed
from trident.stages.base import Stage, Status
from trident.stages.plan import JobStages
from trident.stages.survey import Survey

_TOGETHER = 8
"""Slides that are looked at at once: opening one waits for the disk."""


@dataclass(frozen=True)
class StagePlan:
    """One stage of one slide.

    Attributes:
        key: as in state files.
        action: `run`, `skip`, `stop`, or `skip?`: done, and made anew if what it is made from turns out different.
        why: in one line.
        seconds: without loading models; None where nothing tells. Of several patch encoders, which share a pass, the
            first one to run has the time of the pass, and the others 0. Of `skip?`, what it adds if it runs.
        bytes: that it writes; None where nothing tells. Of `skip?`, if it runs.
        earlier: of `skip?`, key of the stage whose result decides.
    """

    key: str
    action: str
    why: str
    seconds: float | None = 0.0
    bytes: int | None = 0
    earlier: str | None = None


@dataclass(frozen=True)
class SlidePlan:
    """One slide.

    Attributes:
        name: of its outputs.
        path: of its file.
        look: patches, size and problem.
        stages: in the order of the pipeline.
        problem: why the slide will fail; None where nothing speaks against it.
    """

    name: str
    path: Path
    look: Look
    stages: tuple[StagePlan, ...]
    problem: str | None

    @property
    def runs(self) -> bool:
        """Whether there is something to do, and nothing is known to keep it from being done."""
        return self.problem is None and any(stage.action == RUN for stage in self.stages)

    @property
    def to_run(self) -> list[StagePlan]:
        """The stages that will run; none of a slide that will fail."""
        return [stage for stage in self.stages if stage.action == RUN] if self.problem is None else []

    @property
    def may_run(self) -> list[StagePlan]:
        """The stages that run too if an earlier one turns out different."""
        return [stage for stage in self.stages if stage.action == MAYBE] if self.problem is None else []


@dataclass(frozen=True)
class JobPlan:
    """A whole run.

    Attributes:
        job: the run.
        slides: in its order.
        rates: by stage key, how long stages take.
        weights: of the models that are needed.
    """

    job: Job
    slides: tuple[SlidePlan, ...]
    rates: Mapping[str, StageRate]
    weights: tuple[WeightsNeed, ...]

    @property
    def failing(self) -> list[SlidePlan]:
        """The slides that will fail."""
        return [slide for slide in self.slides if slide.problem is not None]

    def to_run(self, kind: str) -> list[tuple[SlidePlan, StagePlan]]:
        """The stages of one kind that will run."""
        return [
            (slide, stage) for slide in self.slides for stage in slide.to_run if stage.key.partition(":")[0] == kind
        ]

    @property
    def may_run(self) -> list[StagePlan]:
        """The stages that run too if earlier ones turn out different."""
        return [stage for slide in self.slides for stage in slide.may_run]

    def counts(self) -> Counter[str]:
        """Stages that run, are skipped (perhaps) or stop; of a slide that will fail, only those that are done."""
        return Counter(
            SKIP if stage.action == MAYBE else stage.action
            for slide in self.slides
            for stage in slide.stages
            if slide.problem is None or stage.action != RUN
        )


class Planner:
    """Plans one job."""

    def __init__(self, job: Job, *, on_gpu: bool) -> None:
        """Args:
        job: to plan.
        on_gpu: whether it would compute on a GPU.
        """
        self.job = job
        self.stages = JobStages(job)
        self._on_gpu = on_gpu
        self._statuses = Survey(self.stages).statuses(job.slides)

    def looks(self) -> dict[str, Look]:
        """What each slide is like, by name; slides that need nothing are not opened."""
        names = list(self.job.slides)
        with ThreadPoolExecutor(min(_TOGETHER, default_workers())) as threads:
            return dict(zip(names, threads.map(self._look, names), strict=True))

    def records(self, folders: Sequence[Path]) -> Records:
        """What earlier runs tell."""
        stages = [stage for name in list(self.job.slides)[:1] for stage in self.stages.all_of(name)]
        return read_records(folders, stages, on_gpu=self._on_gpu)

    def plan(self, looks: Mapping[str, Look], records: Records) -> JobPlan:
        """Put it together."""
        actions: dict[str, dict[str, str]] = {}
        for (name, key), status in self._statuses.items():
            actions.setdefault(name, {})[key] = action_of(status)
        redone = {name: redone_before(by_key) for name, by_key in actions.items()}
        kinds = {
            key.partition(":")[0]
            for name, by_key in actions.items()
            for key, action in by_key.items()
            if action == RUN or key in redone[name]
        }
        weights = weights_needed(self.job, kinds)
        slides = tuple(self._slide(name, looks[name], records, weights, redone[name]) for name in self.job.slides)
        return JobPlan(self.job, slides, records.rates, tuple(weights))

    def chain(self, slide: str) -> dict[str, Stage]:
        """The stages of a slide by kind, those that are only used among them; of several encoders the last."""
        found: dict[str, Stage] = {}
        for stage in self.stages.all_of(slide):
            current: Stage | None = stage
            while current is not None:
                found[current.kind] = current
                current = current.needs
        return found

    def _look(self, name: str) -> Look:
        by_kind: dict[str, Status] = {}
        for key in self.job.stages:
            kind, status = key.partition(":")[0], self._statuses[name, key]
            if action_of(status) == STOP:
                return Look()  # it stops before its slide is opened
            if kind not in by_kind or by_kind[kind].done:
                by_kind[kind] = status
        if all(status.done for status in by_kind.values()):
            return Look()
        return look_at(self.chain(name), by_kind)

    def _slide(
        self,
        name: str,
        look: Look,
        records: Records,
        weights: Sequence[WeightsNeed],
        redone: Mapping[str, str],
    ) -> SlidePlan:
        stages = [self._stage(name, key, look, records, redone.get(key)) for key in self.job.stages]
        problem = look.problem or _problem(stages, weights)
        source = self.job.slides[name]
        return SlidePlan(name, source.path, look, tuple(_timed(stages, look, records.rates)), problem)

    def _stage(self, name: str, key: str, look: Look, records: Records, earlier: str | None) -> StagePlan:
        status = self._statuses[name, key]
        action, why = action_of(status), status.why
        if earlier is not None:
            action, why = MAYBE, with_caveat(why, earlier)
        if action not in (RUN, MAYBE):
            return StagePlan(key, action, why)
        settings, kind = self.job.settings, key.partition(":")[0]
        size = (
            None
            if look.n_patches is None and kind != SEGMENTATION
            else stage_bytes(kind, look.n_patches or 0, self._dim(key), records.picture_bytes.get(key))
        )
        if kind == COORDS and settings.dump_patches and size is not None:
            size += images_bytes(
                look.n_patches or 0, settings.dump_patches_max, settings.patch_size, settings.dump_patches_format
            )
        return StagePlan(key, action, why, None, size, earlier)

    def _dim(self, key: str) -> int | None:
        """Length of the vectors that a stage writes, as declared."""
        kind, _, encoder = key.partition(":")
        if kind == PATCH_FEATURES:
            return patch_spec(encoder).embedding_dim
        if kind != SLIDE_FEATURES:
            return None
        return slide_spec(encoder).embedding_dim or patch_spec(self.job.patch_encoder).embedding_dim


def _timed(stages: Sequence[StagePlan], look: Look, rates: Mapping[str, StageRate]) -> list[StagePlan]:
    """The same stages with their seconds. Those of patch encoders, which read patches together, are with the first."""
    encoders = {
        action: [s.key for s in stages if s.action == action and s.key.startswith(f"{PATCH_FEATURES}:")]
        for action in (RUN, MAYBE)
    }
    timed = []
    for stage in stages:
        seconds: float | None = 0.0
        if stage.action in encoders:
            together = encoders[stage.action]
            if stage.key not in together:
                seconds = _seconds([stage.key], look, rates)
            elif stage.key == together[0]:
                before = encoders[RUN] if stage.action == MAYBE else []
                whole, part = _seconds([*before, *together], look, rates), _seconds(before, look, rates)
                seconds = None if whole is None or part is None else whole - part
        timed.append(replace(stage, seconds=seconds))
    return timed


def _seconds(keys: Sequence[str], look: Look, rates: Mapping[str, StageRate]) -> float | None:
    """Of one stage, or of the patch features of all encoders; None where a rate or a size is not known."""
    if not keys:
        return 0.0
    found = [rates[key] for key in keys if key in rates]
    if len(found) < len(keys):
        return None
    units = look.n_patches if found[0].unit == "patches" else look.megapixels
    if units is None:
        return None
    if keys[0].startswith(f"{PATCH_FEATURES}:"):
        return seconds_of_pass(found, round(units))
    return found[0].seconds(units)


def _problem(stages: Sequence[StagePlan], weights: Sequence[WeightsNeed]) -> str | None:
    """Why a slide will fail, by the state of its outputs and by weights that are missing."""
    missing = {need.stage: need.detail for need in weights if need.state == "missing"}
    for stage in stages:
        if stage.action == STOP:
            return f"{stage.key}: {stage.why}"
        if stage.action == RUN and stage.key in missing:
            return missing[stage.key]
    return None
