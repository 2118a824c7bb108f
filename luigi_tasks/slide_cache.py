"""The cache for slow storage while a run goes on: slides are copied ahead of their stages, and let go after them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from luigi_tasks.followers import followed
from trident.job import SLIDE_FEATURES, Job
from trident.stages.base import StageResult, Status
from trident.staging.cache import SlideCache
from trident.staging.prefetch import copied_ahead


class SlideRelease:
    """Lets go of a slide's copy when no stage of this run reads the slide any more."""

    def __init__(self, job: Job, release: Callable[[Path], None], left: dict[str, set[str]]) -> None:
        """Args:
        job: the run's job.
        release: lets go of the copy of a slide.
        left: by slide, the kinds of stage that are still to read it.
        """
        self._job = job
        self._release = release
        self._left = left
        self._lock = threading.Lock()

    def begin(self, slide: str, kind: str, lane: str) -> None:
        """Nothing to do: the stage finds the copy by itself."""

    def advance(self, slide: str, kind: str, done: int, total: int) -> None:
        """Nothing to do."""

    def end(self, slide: str, kind: str, result: StageResult | None) -> None:
        """Let go of the slide after its last stage, or after a failure: its later stages are not run."""
        with self._lock:
            left = self._left.get(slide, set())
            left.discard(kind)
            over = result is None or not left
        if over:
            self._release(self._job.slides[slide].path)

    def postponed(self, slide: str, kind: str) -> None:
        """Another run is at the slide: its copy would only block a slot here."""
        self._release(self._job.slides[slide].path)


@contextmanager
def slide_cache(job: Job, cache: SlideCache | None, statuses: dict[tuple[str, str], Status]) -> Iterator[None]:
    """Have slides copied ahead while the block lasts.

    Args:
        job: the run's job.
        cache: where to; None: slides are read where they are.
        statuses: by (slide, stage key), where the stages stand.

    Raises:
        SettingsError: the folder of the cache cannot be used.
    """
    left: dict[str, set[str]] = {}
    for (slide, key), status in statuses.items():
        kind = key.partition(":")[0]
        if not status.done and kind != SLIDE_FEATURES:
            left.setdefault(slide, set()).add(kind)
    paths = [job.slides[slide].path for slide in left]
    with copied_ahead(cache, paths) as release, followed(SlideRelease(job, release, left)):
        yield
