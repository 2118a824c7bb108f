"""The cache for slow storage while a run goes on: slides are copied ahead of their stages, and let go after them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from luigi_tasks.followers import followed
from trident.job import SLIDE_FEATURES, Job
from trident.stages.base import StageResult, Status
from trident.staging.cache import SlideCache
from trident.staging.prefetch import Prefetcher


class SlideRelease:
    """Lets go of a slide's copy when no stage of this run reads the slide any more."""

    def __init__(self, job: Job, prefetcher: Prefetcher, left: dict[str, set[str]]) -> None:
        """Args:
        job: the run's job.
        prefetcher: has the copies.
        left: by slide, the kinds of stage that are still to read it.
        """
        self._job = job
        self._prefetcher = prefetcher
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
            self._prefetcher.release(self._job.slides[slide].path)

    def postponed(self, slide: str, kind: str) -> None:
        """Another run is at the slide: its copy would only block a slot here."""
        self._prefetcher.release(self._job.slides[slide].path)


@contextmanager
def slide_cache(job: Job, statuses: dict[tuple[str, str], Status]) -> Iterator[None]:
    """Have slides copied ahead while the block lasts, if the job asks for it.

    Args:
        job: the run's job.
        statuses: by (slide, stage key), where the stages stand.

    Raises:
        SettingsError: the folder of the cache cannot be used.
    """
    settings = job.settings
    if settings.wsi_cache is None:
        yield
        return
    left: dict[str, set[str]] = {}
    for (slide, key), status in statuses.items():
        kind = key.partition(":")[0]
        if not status.done and kind != SLIDE_FEATURES:
            left.setdefault(slide, set()).add(kind)
    cache = SlideCache(settings.wsi_cache, settings.cache_batch_size)
    prefetcher = Prefetcher(cache, [job.slides[slide].path for slide in left])
    with prefetcher, followed(SlideRelease(job, prefetcher, left)):
        yield
