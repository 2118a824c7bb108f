"""How far a run is: slides done, patches a second, time left, and what each device does at this moment."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from trident.job import PATCH_FEATURES
from trident.stages.base import StageResult

_RATE_OVER_S = 60.0
"""Patches a second are those of the last minute."""


@dataclass(frozen=True)
class Work:
    """A stage of a slide that runs at this moment."""

    lane: str
    """The device it runs on."""
    slide: str
    kind: str
    done: int
    total: int
    """Patches or tiles; 0: not known."""


@dataclass(frozen=True)
class Snapshot:
    """How far the run is."""

    slides_done: int
    slides_total: int
    stages_done: int
    stages_failed: int
    stages_total: int
    patches_per_s: float
    eta_s: float | None
    """Seconds that are left, if it goes on like this."""
    busy_share: float | None
    """Share of time in which encoders computed, 0 to 1, over slides whose features are done; the rest is waiting."""
    work: tuple[Work, ...]

    def line(self) -> str:
        """All but the work, in one line."""
        parts = [f"{self.slides_done} of {self.slides_total} slides", f"{self.stages_done} stages done"]
        if self.stages_failed:
            parts.append(f"{self.stages_failed} failed")
        if self.patches_per_s:
            parts.append(f"{self.patches_per_s:,.0f} patches/s")
        if self.busy_share is not None:
            parts.append(f"encoder busy {self.busy_share:.0%}")
        if self.eta_s is not None:
            parts.append(f"{duration(self.eta_s)} left")
        return ", ".join(parts)


class RunProgress:
    """Collects what tasks say, from any thread."""

    def __init__(self, stages_left: dict[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        stages_left: by slide, how many of its stages this run has to make; a slide with none is left out.
        clock: seconds that only grow.
        """
        self._left = dict(stages_left)
        self._slides = len(stages_left)
        self._stages = sum(stages_left.values())
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._work: dict[tuple[str, str], Work] = {}
        self._patches: deque[tuple[float, int]] = deque()
        self._done = self._failed = 0
        self._encode_s = self._feature_s = 0.0

    def begin(self, slide: str, kind: str, lane: str) -> None:
        """A stage begins on a device."""
        with self._lock:
            self._work[slide, kind] = Work(lane, slide, kind, 0, 0)

    def advance(self, slide: str, kind: str, done: int, total: int) -> None:
        """A stage has done so much."""
        with self._lock:
            work = self._work.get((slide, kind))
            if work is None:
                return
            self._work[slide, kind] = Work(work.lane, slide, kind, done, total)
            if kind == PATCH_FEATURES and done > work.done:
                self._patches.append((self._clock(), done - work.done))

    def end(self, slide: str, kind: str, result: StageResult | None) -> None:
        """A stage ended, with a result or without."""
        with self._lock:
            self._work.pop((slide, kind), None)
            if result is None:
                self._failed += 1
                self._left.pop(slide, None)  # its later stages are not run
                return
            self._done += 1
            if slide in self._left:
                self._left[slide] -= 1
                if self._left[slide] <= 0:
                    del self._left[slide]
            if kind == PATCH_FEATURES and result.timings:
                self._encode_s += result.timings.get("encode", 0.0)
                self._feature_s += sum(result.timings.get(phase, 0.0) for phase in ("encode", "wait", "write"))

    def postponed(self, slide: str, kind: str) -> None:
        """A stage is at work in another run."""
        with self._lock:
            self._work.pop((slide, kind), None)

    def snapshot(self) -> Snapshot:
        """How far the run is now."""
        with self._lock:
            now = self._clock()
            while self._patches and self._patches[0][0] < now - _RATE_OVER_S:
                self._patches.popleft()
            window_s = min(_RATE_OVER_S, max(now - self._began, 1e-9))
            left = sum(self._left.values())
            ended = self._stages - left
            return Snapshot(
                slides_done=self._slides - len(self._left),
                slides_total=self._slides,
                stages_done=self._done,
                stages_failed=self._failed,
                stages_total=self._stages,
                patches_per_s=sum(count for _, count in self._patches) / window_s,
                eta_s=(now - self._began) / ended * left if ended > 0 and left > 0 else None,
                busy_share=self._encode_s / self._feature_s if self._feature_s > 0 else None,
                work=tuple(sorted(self._work.values(), key=lambda work: (work.lane, work.slide))),
            )


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
