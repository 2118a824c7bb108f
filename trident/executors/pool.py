"""The executors of one run: which there are, who gets one, and what happens when one dies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from trident.devices import physical_name
from trident.errors import ExecutorError, NotStartedError, PutDownError
from trident.executors.executor import GRACE_S, Executor, ExecutorDiedError, Launch
from trident.executors.leases import device_lease
from trident.executors.messages import StageRequest
from trident.executors.runtime_dir import RunDir, runtime_dir
from trident.stages.base import Progress, StageResult

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a stage is begun when the executor dies under it; from the second time on it has the executor for itself,
so that one slide that kills its process costs another slide at most one retry."""
LIGHT_SLOTS = 2
"""Stages that need no GPU, at once, beside GPUs."""


@dataclass(frozen=True)
class Lane:
    """One device and what runs on it."""

    name: str
    device_index: int
    """-1: CPU."""
    slots: int
    """Slides in flight at once."""
    takes_device_stages: bool = True
    takes_light_stages: bool = True


def lanes_for(devices: Sequence[int], slides_per_gpu: int) -> list[Lane]:
    """A lane for each device; beside GPUs, one more for what needs none.

    Args:
        devices: GPU indices, each once; -1, as often as wanted, for an independent CPU worker.
        slides_per_gpu: slides in flight on a GPU.
    """
    lanes = []
    for position, index in enumerate(devices):
        if index < 0:
            lanes.append(Lane(f"cpu{position}", -1, 1))
        else:
            lanes.append(Lane(f"gpu{index}", index, slides_per_gpu, takes_light_stages=False))
    if not any(lane.takes_light_stages for lane in lanes):
        lanes.append(Lane("cpu", -1, LIGHT_SLOTS, takes_device_stages=False))
    return lanes


@dataclass
class _Place:
    """A lane while the run lasts."""

    lane: Lane
    executor: Executor | None = None
    used: int = 0
    starting: threading.Lock = field(default_factory=threading.Lock)
    starts: int = 0


class Pool:
    """Runs stages on the lanes of a run; executors start when they are first needed, and again when they died."""

    def __init__(self, lanes: Sequence[Lane], launch: Launch, *, task_timeout_s: float | None = None) -> None:
        """Args:
        lanes: the devices and what runs on them.
        launch: starts an executor.
        task_timeout_s: seconds for a stage; None: as long as it takes.

        Raises:
            ExecutorError: there is no folder for sockets that is this user's alone.
        """
        self._places = [_Place(lane) for lane in lanes]
        self._timeout_s = task_timeout_s
        self._launch = launch
        self._free = threading.Condition()
        self._refusing = False
        self.has_lost_one = False
        """Whether an executor died at work: its temporary files are still there, also where another made up for it."""
        self._dir: RunDir | None = RunDir()

    @property
    def slots(self) -> int:
        """Stages that can be at work at once."""
        return sum(place.lane.slots for place in self._places)

    def run(
        self,
        request: StageRequest,
        progress: Progress,
        *,
        uses_device: bool,
        on_lane: Callable[[str], object] = lambda lane: None,
    ) -> StageResult:
        """Run one stage on the next lane that is free for it.

        Args:
            request: the stage.
            progress: told how far it is.
            uses_device: whether it needs a GPU, where there is one.
            on_lane: told the lane's name when the stage begins there.

        Raises:
            NotStartedError: the run is told to stop and the stage has not begun.
            PutDownError: the run is told to stop and an executor ended under the stage, which may have begun.
            ExecutorError: executors do not start, or died again and again under this stage.
            TridentError, UnforeseenError: what the stage itself raised.
        """
        how = ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(request, progress, uses_device, attempt, on_lane)
            except NotStartedError as error:
                if attempt == 1:
                    raise
                # An earlier attempt had begun it, and what died then has noted nothing.
                raise PutDownError(f"{request.slide}: interrupted: {how}") from error
            except ExecutorDiedError as death:
                how = str(death)
                self.has_lost_one = True
            if attempt < ATTEMPTS:
                logger.warning("%s: %s: %s; begun again", request.slide, request.kind, how)
        raise ExecutorError(
            f"{request.slide}: the process died {ATTEMPTS} times under this slide (last: {how}); it may be damaged, or "
            "memory too small: look at the log, or try a smaller --batch_size"
        )

    def _attempt(
        self,
        request: StageRequest,
        progress: Progress,
        uses_device: bool,
        attempt: int,
        on_lane: Callable[[str], object],
    ) -> StageResult:
        with self._lease(uses_device, alone=attempt > 1) as place:
            on_lane(place.lane.name)
            try:
                return self._executor(place).run(request, progress, self._timeout_s)
            except ExecutorError as error:
                if self._refusing:
                    raise NotStartedError(f"{request.slide}: interrupted: {error}") from error
                raise
            except ExecutorDiedError as death:
                if self._refusing:
                    raise PutDownError(f"{request.slide}: interrupted: {death}") from death
                raise

    def refuse(self) -> None:
        """Begin no further stage; those that run go on."""
        with self._free:
            self._refusing = True
            self._free.notify_all()

    def close(self) -> None:
        """End all executors; what still runs is interrupted. Safe to call twice."""
        self.refuse()
        executors = [place.executor for place in self._places if place.executor is not None]
        for executor in executors:
            executor.close()
        deadline = time.monotonic() + GRACE_S
        for executor in executors:
            executor.wait(deadline)
        run_dir, self._dir = self._dir, None
        if run_dir is not None:
            run_dir.close()

    @contextmanager
    def _lease(self, uses_device: bool, *, alone: bool) -> Iterator[_Place]:
        with self._free:
            while (place := self._free_place(uses_device, alone)) is None:
                self._check()
                self._free.wait()
            self._check()
            taken = place.lane.slots if alone else 1
            place.used += taken
        try:
            with self._device_lease(place.lane):
                yield place
        finally:
            with self._free:
                place.used -= taken
                self._free.notify_all()

    def _free_place(self, uses_device: bool, alone: bool) -> _Place | None:
        """The least busy lane that takes such a stage now."""
        fitting = [
            place
            for place in self._places
            if (place.lane.takes_device_stages if uses_device else place.lane.takes_light_stages)
            and (place.used == 0 if alone else place.used < place.lane.slots)
        ]
        return min(fitting, key=lambda place: place.used / place.lane.slots, default=None)

    def _device_lease(self, lane: Lane) -> AbstractContextManager[None]:
        if lane.device_index < 0:
            return nullcontext()
        return device_lease(runtime_dir(), physical_name(lane.device_index), lane.slots, self._wait_for_device)

    def _wait_for_device(self, seconds: float) -> None:
        with self._free:
            self._check()
            self._free.wait(seconds)
            self._check()

    def _check(self) -> None:
        if self._refusing:
            raise NotStartedError("the run stops: not begun")

    def _executor(self, place: _Place) -> Executor:
        with place.starting:
            if place.executor is None or not place.executor.is_alive:
                self._check()
                assert self._dir is not None
                place.starts += 1
                socket_path = self._dir.path / f"{place.lane.name}.{place.starts}"
                executor = Executor(
                    *(place.lane.name, socket_path, place.lane.device_index, self._launch),
                    is_wanted=lambda: not self._refusing,
                )
                if self._refusing:  # since its start: nobody else knows of it yet
                    executor.close()
                    self._check()
                place.executor = executor
            return place.executor
