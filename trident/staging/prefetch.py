"""The driver's side of the cache: a thread that copies the next slides while others are computed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from trident.errors import TridentError
from trident.staging.cache import SlideCache
from trident.staging.needs import Needs
from trident.staging.opening import say_once
from trident.staging.problems import BeingCopiedError, NoRoomError, NoSlotError, NotStagedError, StoppedError

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
"""Other processes give up slots without telling us."""
_END_S = 10.0
"""A read from slow storage that has hung for this long is left behind."""


class Prefetcher:
    """Keeps the slots filled with the first slides of a list that are not released yet.

    A slide that it has copied stays in the cache until `release`, so all its stages find it there. Use it as a context
    manager; afterwards nothing of this run is left in the cache.

    Args:
        cache: where slides are copied to.
        slides: absolute paths of the slides that are still to be done, in the order in which they will be.

    Raises:
        SettingsError: the cache folder cannot be used; the message says why and what to do.
    """

    def __init__(self, cache: SlideCache, slides: Iterable[Path]) -> None:
        cache.prepare()
        self._cache = cache
        self._waiting = dict.fromkeys(path for path in slides if not cache.is_inside(path))
        """Slides to copy, in order (a dictionary for its order and quick removal)."""
        self._copied: set[Path] = set()
        self._to_evict: dict[Path, float] = {}
        """Released slides, and when (monotonic seconds) to try to remove their copies."""
        self._state = threading.Condition()
        self._stopped = False
        self._needs: Needs | None = None
        self._thread = threading.Thread(target=self._run, name="slide-prefetcher", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def release(self, slide: Path) -> None:
        """Say that a slide is done, or failed: its copy goes, and another slide takes its slot. Returns at once."""
        with self._state:
            self._waiting.pop(slide, None)
            self._to_evict[slide] = 0.0
            self._state.notify_all()

    def close(self) -> None:
        """Stop copying and empty the cache, except what other runs need. Safe to call twice."""
        with self._state:
            already, self._stopped = self._stopped, True
            self._state.notify_all()
        if self._thread.is_alive():
            self._thread.join(_END_S)
        if self._thread.is_alive():
            logger.warning("the slow storage does not answer; a copy is left behind, and the next run removes it")
        elif not already:
            self._clean_up()

    def __enter__(self) -> Prefetcher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._needs = self._cache.new_needs()
            self._cache.sweep(keep=list(self._waiting))
            while not self._stopped:
                self._evict_released()
                progress = self._copy_next()
                with self._state:
                    if self._stopped or progress:
                        continue
                    if self._due():
                        continue
                    idle = not self._waiting and not self._to_evict
                    self._state.wait(None if idle else _LOOK_AGAIN_S)
        except (NotStagedError, OSError, TridentError) as error:
            say_once("stopped", f"{self._cache.folder}: no more slides are copied to the cache: {error}")

    def _copy_next(self) -> bool:
        """Copy the first slide that can be; False where none can be at this moment."""
        with self._state:
            waiting = list(self._waiting)
        for slide in waiting:
            self._evict_released()
            with self._state:
                if self._stopped:
                    return True
                if slide not in self._waiting:  # released since
                    continue
            try:
                self._copy(slide)
            except BeingCopiedError:  # by a task that could not wait for us: looked at again in the next round
                continue
            except NoSlotError:
                return False
            except NoRoomError as error:
                say_once("full", f"{self._cache.folder}: the disk is full; fewer slides are copied at once ({error})")
                self._not_needed(slide)
                if not self._copied and not self._to_evict:  # it will never fit: others first
                    self._put_last(slide)
                return False
            except StoppedError:
                self._not_needed(slide)
            except (NotStagedError, OSError, TridentError) as error:
                logger.info("%s: not copied to the cache: %s", slide, error)
                self._give_up(slide)
            return True
        return False

    def _copy(self, slide: Path) -> None:
        def check() -> None:
            if self._stopped or slide in self._to_evict:
                raise StoppedError
            self._evict_released()

        assert self._needs is not None
        self._cache.acquire(slide, self._needs, check).close()
        with self._state:
            self._copied.add(slide)
            self._waiting.pop(slide, None)

    def _put_last(self, slide: Path) -> None:
        with self._state:
            if slide in self._waiting:
                self._waiting[slide] = self._waiting.pop(slide)

    def _give_up(self, slide: Path) -> None:
        """Leave a slide where it lies."""
        self._not_needed(slide)
        with self._state:
            self._waiting.pop(slide, None)

    def _not_needed(self, slide: Path) -> None:
        assert self._needs is not None
        self._cache.drop(self._needs, slide)

    def _evict_released(self) -> None:
        """Also called while a slide is copied, so that a slot becomes free when its slide is done."""
        with self._state:
            due = self._due()
        for slide in due:
            self._not_needed(slide)
            self._copied.discard(slide)
            gone = self._cache.evict(slide)
            with self._state:
                if gone:
                    self._to_evict.pop(slide, None)
                else:  # somebody reads it
                    self._to_evict[slide] = time.monotonic() + _LOOK_AGAIN_S

    def _due(self) -> list[Path]:
        """Released slides whose turn it is to be removed. Called with the state held."""
        now = time.monotonic()
        return [slide for slide, not_before in self._to_evict.items() if not_before <= now]

    def _clean_up(self) -> None:
        """What the thread leaves, once it has ended."""
        try:
            if self._needs is not None:
                self._cache.drop(self._needs)
            self._cache.sweep()
        except (NotStagedError, OSError) as error:
            logger.warning("%s: the cache cannot be emptied (%s); the next run does it", self._cache.folder, error)


@contextmanager
def copied_ahead(cache: SlideCache | None, slides: Iterable[Path]) -> Iterator[Callable[[Path], None]]:
    """Have slides copied ahead while the block lasts; yields what is to be called with each slide that is done.

    Args:
        cache: where to; None: slides are read where they are.
        slides: their absolute paths, in the order in which they will be needed.

    Raises:
        SettingsError: the cache folder cannot be used.
    """
    if cache is None:
        yield lambda slide: None
        return
    with Prefetcher(cache, slides) as prefetcher:
        yield prefetcher.release
