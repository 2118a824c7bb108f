"""What the stages of the pipeline share: when is an output done, and how is it made without ever leaving half of it.

A stage is one step for one slide: it knows its output file, the recipe that the output must carry, and how to produce
it. `run_stage` does the rest, the same way for all: lock, check, produce, log.
"""

from __future__ import annotations

import enum
import logging
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import trident
from trident.errors import MissingMppError, RecipeMismatchError, StageNotRequestedError, StoreError
from trident.slides.base import Slide
from trident.slides.discovery import SlideSource
from trident.staging.cache import SlideCache
from trident.store import configs, logs
from trident.store.layout import JobLayout
from trident.store.locks import OutputLock
from trident.store.output_view import DISK, OutputView
from trident.store.recipes import Recipe, Verdict, VerdictKind, compare

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (patches or tiles done, their total)."""


@dataclass(frozen=True)
class StageContext:
    """What the stages of one job have in common."""

    layout: JobLayout
    made: frozenset[str]
    """Kinds of stage that this run makes; any other is only used where it exists."""
    reader_type: str | None = None
    custom_mpp_keys: tuple[str, ...] = ()
    device: str = "cpu"
    max_workers: int | None = None
    overwrite_run: str | None = None
    """With `--overwrite`: the run that outputs must come from to count as done."""
    cache: SlideCache | None = None
    """Where copies of slides on slow storage lie."""
    view: OutputView = DISK
    """How the stages look at outputs that exist."""


class Condition(enum.Enum):
    """Where a stage stands before it runs."""

    DONE = "done"
    MISSING = "missing"
    STALE = "stale"
    """Made from an input that has changed since: it is made anew."""
    CONFLICT = "conflict"
    """Made with other settings: only `--overwrite` replaces it."""
    OVERWRITE = "overwrite"
    BLOCKED = "blocked"
    """Missing, and not part of this run."""


@dataclass(frozen=True)
class Status:
    """A condition and why, in one line."""

    condition: Condition
    why: str

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return self.condition is Condition.DONE


@dataclass
class StageResult:
    """What a stage made."""

    message: str
    outputs: dict[str, Path] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    """`dimensions`, `mpp`, `mag`, `level_count` of the slide, where the stage opened it."""
    reader_type: str | None = None
    notes: list[str] = field(default_factory=list)
    skipped: bool = False
    """Nothing was made: the output was there."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by phase, and `total`; see `trident.store.timings`."""
    parts: dict[str, StageResult] = field(default_factory=dict)
    """Of several stages that ran as one: the result of each, by its key."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        outputs = {name: str(path) for name, path in self.outputs.items()}
        return {**asdict(self), "outputs": outputs, "parts": {key: part.to_dict() for key, part in self.parts.items()}}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> StageResult:
        """The other way round; what JSON made of a tuple stays a list."""
        outputs = {name: Path(path) for name, path in fields["outputs"].items()}
        parts = {key: cls.from_dict(part) for key, part in fields["parts"].items()}
        return cls(**{**fields, "outputs": outputs, "parts": parts})


class Stage(ABC):
    """One stage of the pipeline for one slide."""

    kind: ClassVar[str]
    edited_by_hand: ClassVar[bool] = False
    """Whether people change the output: then a damaged one is never replaced unasked."""
    uses_device: bool = False
    """Whether the stage computes on the device of the job."""

    def __init__(self, context: StageContext, source: SlideSource, output: Path | None = None) -> None:
        """Args:
        output: where the output lies, instead of its usual place under the job directory.
        """
        self.context = context
        self.source = source
        self._output = output

    @property
    def key(self) -> str:
        """Name of the stage in the slide's state file."""
        return self.kind

    @property
    def members(self) -> tuple[Stage, ...]:
        """The stages that run together as this one, each with a key of its own; for most stages, itself."""
        return (self,)

    @property
    def output(self) -> Path:
        """The file whose presence under this name, with the right recipe, means done."""
        return self._output or self.usual_output()

    @abstractmethod
    def usual_output(self) -> Path:
        """Place of the output under the job directory."""

    def places(self) -> list[Path]:
        """Every path at which the output may lie, where it has no fixed one."""
        return [self.output]

    def fix_output(self, path: Path) -> None:
        """Let the output lie at `path` as long as this object lives, instead of finding that out each time."""
        self._output = path

    @property
    @abstractmethod
    def needs(self) -> Stage | None:
        """The stage before this one."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Settings that shape the output; they are compared with those of an existing one."""

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Digests of the files that the output is made from. Those of a missing file are left out."""

    @abstractmethod
    def read_recipe(self) -> Recipe | None:
        """Recipe of the existing output; None where it carries none (made by another program)."""

    @abstractmethod
    def content_digest(self) -> str:
        """Digest of what the output says, for the recipe of the next stage."""

    @abstractmethod
    def produce(self, progress: Progress) -> StageResult:
        """Make the output. Called with the lock held."""

    def is_there(self) -> bool:
        """Whether the output exists."""
        return self.context.view.exists(self.output)

    def found_recipe(self) -> Recipe | None:
        """As `read_recipe`, without reading where the context's view knows it; of the facts only `run` is certain."""
        return self.context.view.recipe(self.output, self.read_recipe)

    def found_digest(self) -> str:
        """As `content_digest`, without reading where the context's view knows it."""
        return self.context.view.fact(self.output, f"{self.kind} content", self.content_digest)

    @cached_property
    def label(self) -> str:
        """The stage in a message for people."""
        return self.key.replace("_", " ").replace(":", " ")

    def wanted_recipe(self, inputs: dict[str, str] | None = None, **facts: Any) -> Recipe:
        """The recipe that a new output carries.

        Args:
            inputs: digests taken before the inputs were read; None: as they are now.
            facts: recorded, never compared.
        """
        made = {
            "trident_version": trident.__version__,
            "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "host": platform.node(),
            "run": self.context.overwrite_run,
        }
        return Recipe(stage=self.key, settings=self.settings(), inputs=inputs or self.inputs(), facts={**made, **facts})

    def status(self) -> Status:  # noqa: PLR0911 - one return a condition reads best
        """Whether the output is done, and if not, why not."""
        made_here = self.kind in self.context.made
        if not self.is_there():
            if made_here:
                blocked = self._blocked_by()
                return Status(Condition.BLOCKED, blocked) if blocked else Status(Condition.MISSING, "not made yet")
            return Status(Condition.BLOCKED, f"{self.output} is missing and --task does not include {self.label}")
        try:
            found = self.found_recipe()
        except StoreError as error:
            return self._damaged(str(error), made_here)
        try:
            wanted = Recipe(self.key, self.settings(), self.inputs())
        except StoreError as error:  # the file that it was made from is damaged
            why = without_advice(str(error)) if self._input_is_made_anew() else str(error)
            return Status(Condition.STALE if made_here else Condition.BLOCKED, why)
        if made_here and not self._from_this_overwrite(found):
            return Status(Condition.OVERWRITE, "exists; --overwrite makes it anew")
        verdict = compare(found, wanted)
        if verdict.kind is VerdictKind.FOREIGN:
            return Status(Condition.DONE, "exists, made by another program")
        if verdict.kind is VerdictKind.SAME:
            return Status(Condition.DONE, "exists with the same settings")
        if made_here:
            return self._redo(verdict)
        return Status(Condition.DONE, f"exists ({verdict.describe()}), used as it is")

    def _damaged(self, why: str, made_here: bool) -> Status:
        if not made_here:
            return Status(Condition.BLOCKED, why)
        if self.edited_by_hand and self.context.overwrite_run is None:  # somebody's work may be in it
            return Status(Condition.CONFLICT, why)
        return Status(Condition.STALE, without_advice(why))

    def _input_is_made_anew(self) -> bool:
        """Whether this run makes the file before this one anew where it is damaged."""
        earlier = self.needs
        if earlier is None or earlier.kind not in self.context.made:
            return False
        return self.context.overwrite_run is not None or not earlier.edited_by_hand

    def _blocked_by(self) -> str | None:
        """Why this stage cannot be made: an earlier one is missing, and this run does not make it."""
        earlier = self.needs
        while earlier is not None and earlier.kind in self.context.made and not earlier.is_there():
            earlier = earlier.needs
        if earlier is None or earlier.kind in self.context.made:
            return None
        status = earlier.status()
        return None if status.done else status.why

    def _from_this_overwrite(self, found: Recipe | None) -> bool:
        run = self.context.overwrite_run
        return run is None or (found is not None and found.facts.get("run") == run)

    def _redo(self, verdict: Verdict) -> Status:
        if verdict.kind is VerdictKind.STALE:
            return Status(Condition.STALE, f"its input has changed ({verdict.describe()})")
        return Status(
            Condition.CONFLICT,
            f"{self.output} was made with other settings ({verdict.describe()}); "
            "use --overwrite to replace it, another --job_dir, or the earlier settings",
        )

    def slide_inputs(self) -> dict[str, str]:
        """The slide file as an input: by its size, since hashing gigabytes would cost more than the stage."""
        return {"slide_bytes": str(self.source.size_bytes)}

    def mpp_settings(self) -> dict[str, Any]:
        """Settings that decide the slide's µm/px."""
        mpp = "from the slide" if self.source.mpp is None else self.source.mpp
        return {"mpp": mpp, "custom_mpp_keys": list(self.context.custom_mpp_keys)}

    def open_slide(self) -> AbstractContextManager[Slide]:
        """Open the slide with the job's reader settings; its copy on fast storage, where the job has such."""
        from trident.slides.registry import open_slide
        from trident.staging.opening import open_staged

        opened = partial(
            open_slide,
            reader_type=self.context.reader_type,
            mpp=self.source.mpp,
            custom_mpp_keys=self.context.custom_mpp_keys,
            name=self.source.name,
        )
        return open_staged(self.source.path, self.context.cache, opened)


def without_advice(message: str) -> str:
    """What is wrong with a file, without the advice to have it made anew: for where that happens anyway."""
    what, _, advice = message.rpartition("; ")
    return what if what and "--overwrite" in advice else message


def slide_meta(slide: Slide) -> dict[str, Any]:
    """The `meta` block of a state file; None for what is unknown, since CLAM's coordinates need no µm/px."""
    mpp, mag = None, None
    with suppress(MissingMppError):
        mpp = slide.mpp
        mag = slide.magnification
    return {"dimensions": slide.dimensions, "mpp": mpp, "mag": mag, "level_count": len(slide.level_dimensions)}


def run_stage(
    stage: Stage,
    progress: Progress | None = None,
    on_start: Callable[[], object] | None = None,
    on_end: Callable[[StageResult], object] | None = None,
) -> StageResult:
    """Run one stage unless its output is done; the output appears under its name only when it is whole.

    Args:
        progress: told how far the stage is.
        on_start: called when the lock is held and the work begins.
        on_end: called with the result, still under the lock, so that whoever gets it next sees what was recorded.

    Raises:
        RecipeMismatchError: the output exists with other settings.
        StageNotRequestedError: an earlier stage is missing and not part of this run.
        LockHeldError: another running process is writing this output.
        TridentError: whatever the stage itself finds.
    """
    status = checked_status(stage)
    if status.done:
        return skipped_result(stage, status)
    started = time.monotonic()
    with OutputLock(stage.output):
        status = checked_status(stage)  # another run may have been here before we had the lock
        if status.done:
            return skipped_result(stage, status)
        tell_why(stage, status)
        if on_start is not None:
            on_start()
        result = stage.produce(progress or no_progress)
        conclude(stage, result, started)
        if on_end is not None:
            on_end(result)
    return result


def checked_status(stage: Stage) -> Status:
    """Where the stage stands.

    Raises:
        RecipeMismatchError, StageNotRequestedError: it must not run.
    """
    status = stage.status()
    if status.condition is Condition.CONFLICT:
        raise RecipeMismatchError(status.why)
    if status.condition is Condition.BLOCKED:
        raise StageNotRequestedError(f"{status.why}; run with --task all, or run that stage first")
    return status


def tell_why(stage: Stage, status: Status) -> None:
    """Say why an output that exists is made anew."""
    if status.condition is not Condition.MISSING:
        logger.info("%s: %s: made anew: %s", stage.source.name, stage.label, status.why)


def conclude(stage: Stage, result: StageResult, started: float) -> None:
    """What follows once a stage's output is made: its `total` seconds, the settings file, the log.

    Args:
        stage: that made its output.
        result: what it made.
        started: `time.monotonic()` when it began.
    """
    seconds = time.monotonic() - started
    result.timings = {phase: round(value, 3) for phase, value in {**result.timings, "total": seconds}.items()}
    write_stage_config(stage)
    logs.record(stage.context.layout.stage_log(stage.key), stage.source.path.name, result.message)
    logger.info("%s: %s: %s (%.1f s)", stage.source.name, stage.label, result.message, seconds)


def skipped_result(stage: Stage, status: Status) -> StageResult:
    """The result of a stage whose output was there."""
    return StageResult(message=status.why, outputs={"output": stage.output}, skipped=True)


def write_stage_config(stage: Stage) -> None:
    """Keep `_config_*.json`: the settings of a stage's latest run."""
    configs.write_stage_config(stage.context.layout.stage_config(stage.key), {"stage": stage.key, **stage.settings()})


def no_progress(done: int, total: int) -> None:
    """Default progress: nobody listens."""
