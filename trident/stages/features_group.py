"""The patch features of one slide with several encoders: to the graph one stage, whose patches are read once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trident.errors import LockHeldError, TridentError
from trident.job import PATCH_FEATURES
from trident.stages.base import (
    Condition,
    Progress,
    Stage,
    StageResult,
    Status,
    checked_status,
    conclude,
    no_progress,
    skipped_result,
    tell_why,
)
from trident.stages.coords import CoordsStage
from trident.stages.features import PatchFeaturesStage
from trident.stages.tracking import describe_error
from trident.store.locks import OutputLock
from trident.store.recipes import Recipe

logger = logging.getLogger(__name__)

OnStart = Callable[[Stage], object]
OnEnd = Callable[[Stage, StageResult], object]
OnFailure = Callable[[Stage, BaseException], object]


class PatchFeaturesGroup(Stage):
    """Several `PatchFeaturesStage` of one slide, done when all of them are. `run_group` runs it, not `run_stage`.

    Each member keeps its own output, recipe, lock and record; what is asked here of one file speaks of all.
    """

    kind = PATCH_FEATURES
    uses_device = True

    def __init__(self, members: Sequence[PatchFeaturesStage]) -> None:
        """Args:
        members: at least one, all of the same slide and coordinates.
        """
        super().__init__(members[0].context, members[0].source)
        self._members = tuple(members)

    @property
    def members(self) -> tuple[Stage, ...]:
        return self._members

    @property
    def parts(self) -> tuple[PatchFeaturesStage, ...]:
        """The members, as what they are."""
        return self._members

    @property
    def key(self) -> str:
        """That of the first member: a key of the job."""
        return self._members[0].key

    @property
    def label(self) -> str:
        return "patch features " + ", ".join(member.encoder_name for member in self._members)

    def usual_output(self) -> Path:
        return self._members[0].output

    def places(self) -> list[Path]:
        return [place for member in self._members for place in member.places()]

    @property
    def needs(self) -> CoordsStage:
        return self._members[0].needs

    def settings(self) -> dict[str, Any]:
        return {member.key: member.settings() for member in self._members}

    def inputs(self) -> dict[str, str]:
        return self._members[0].inputs()

    def read_recipe(self) -> Recipe | None:
        return None

    def content_digest(self) -> str:
        return hashlib.sha256("".join(member.content_digest() for member in self._members).encode()).hexdigest()

    def is_there(self) -> bool:
        return all(member.is_there() for member in self._members)

    def status(self) -> Status:
        """Done when all members are; else that of the first that can be made, or else of the first that is not done."""
        open_ones = [status for member in self._members if not (status := member.status()).done]
        if not open_ones:
            return Status(Condition.DONE, f"{len(self._members)} encoders: all exist")
        stopped = {Condition.CONFLICT, Condition.BLOCKED}
        return next((status for status in open_ones if status.condition not in stopped), open_ones[0])

    def produce(self, progress: Progress) -> StageResult:
        raise AssertionError("run_group runs the members")


def run_group(
    group: PatchFeaturesGroup,
    progress: Progress | None = None,
    *,
    on_start: OnStart | None = None,
    on_end: OnEnd | None = None,
    on_failure: OnFailure | None = None,
) -> StageResult:
    """Run what is not done of a group, in one pass over the patches.

    An encoder that fails (its weights, its output, its file), whose output was made with other settings, or whose
    output another run is writing does not stop the others: they are made, and then its error is raised.

    Args:
        group: the stages.
        progress: told how far the pass is.
        on_start: called for each member that is made, when its lock is held.
        on_end: called for each that was made, still under its lock.
        on_failure: called for each that failed.

    Returns:
        One result, with those of the members as its `parts`.

    Raises:
        TridentError: what its members failed with, by encoder; a lock that is held only where nothing worse happened.
    """
    results: dict[str, StageResult] = {}
    errors: list[tuple[PatchFeaturesStage, Exception]] = []

    def failed(stage: PatchFeaturesStage, error: Exception) -> None:
        errors.append((stage, error))
        if on_failure is not None and not isinstance(error, LockHeldError):
            on_failure(stage, error)

    started = time.monotonic()
    with ExitStack() as locks:
        to_make: list[PatchFeaturesStage] = []
        for stage in group.parts:
            try:
                skipped = _entered(stage, locks)
            except TridentError as error:
                failed(stage, error)
                continue
            if skipped is not None:
                results[stage.key] = skipped
                continue
            if on_start is not None:
                on_start(stage)
            to_make.append(stage)
        for stage, outcome in zip(to_make, _made(to_make, progress), strict=True):
            if isinstance(outcome, Exception):
                failed(stage, outcome)
                continue
            conclude(stage, outcome, started)
            results[stage.key] = outcome
            if on_end is not None:
                on_end(stage, outcome)
    if errors:
        raise _together_failed(errors)
    return _together({stage.key: results[stage.key] for stage in group.parts})


def _made(stages: list[PatchFeaturesStage], progress: Progress | None) -> list[StageResult | Exception]:
    if not stages:
        return []
    began = time.perf_counter()
    from trident.stages.feature_pass import produce_together

    try:
        return produce_together(stages, progress or no_progress, began=began)
    except TridentError as error:  # the slide itself: no encoder has its features
        return [error] * len(stages)


def _together_failed(errors: list[tuple[PatchFeaturesStage, Exception]]) -> Exception:
    """The error to raise: the one that all have, or what went wrong with which encoder."""
    worse = [(stage, error) for stage, error in errors if not isinstance(error, LockHeldError)]
    first = (worse or errors)[0][1]
    if isinstance(first, TridentError) and len({(type(error), str(error)) for _, error in worse}) <= 1:
        return first
    for stage, error in worse:
        if not isinstance(error, TridentError):
            logger.error("%s: %s failed", stage.source.name, stage.label, exc_info=error)
    return TridentError("; ".join(f"{stage.encoder_name}: {describe_error(error)}" for stage, error in worse))


def _entered(stage: Stage, locks: ExitStack) -> StageResult | None:
    """Take the lock of a stage that is to be made; of one that is done, its result."""
    status = checked_status(stage)
    if status.done:
        return skipped_result(stage, status)
    lock = OutputLock(stage.output)
    with ExitStack() as own:
        own.enter_context(lock)
        status = checked_status(stage)
        if status.done:
            return skipped_result(stage, status)
        tell_why(stage, status)
        locks.push(own.pop_all())
    return None


def _together(results: dict[str, StageResult]) -> StageResult:
    parts = list(results.values())
    made = [part for part in parts if not part.skipped]
    return StageResult(
        "; ".join(f"{key.partition(':')[2]}: {part.message}" for key, part in results.items()),
        {f"{name} {key}": path for key, part in results.items() for name, path in part.outputs.items()},
        meta=made[0].meta if made else {},
        reader_type=made[0].reader_type if made else None,
        notes=list(dict.fromkeys(note for part in made for note in part.notes)),
        skipped=not made,
        parts=results,
    )
