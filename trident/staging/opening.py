"""How a stage comes to its slide: through the cache where there is one, and in every other case where it lies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from trident.errors import SettingsError, SlideError, TridentError, UnreadableSlideError
from trident.staging.cache import Lease, SlideCache
from trident.staging.problems import BeingCopiedError, NoRoomError, NoSlotError, NotStagedError

logger = logging.getLogger(__name__)

_Opened = TypeVar("_Opened")

_said: set[str] = set()
"""What has been said once in this process."""


@contextmanager
def staged(source: Path, cache: SlideCache | None) -> Iterator[Path]:
    """The path under which to read a slide: its copy in the cache, or `source` itself.

    The copy is made now where nobody has made it and there is a slot; it stays until the block ends. Nothing about the
    cache is ever an error here. An error about the copy names the slide itself.

    Args:
        source: absolute path of the slide.
        cache: None for none.
    """
    lease = None if cache is None else _lease(source, cache)
    if lease is None:
        yield source
        return
    try:
        yield lease.path
    except SlideError as error:
        if error.path != lease.path:
            raise
        message = str(error).removeprefix(f"{error.path}: ")
        raise type(error)(source, message) from error
    finally:
        lease.close()


@contextmanager
def open_staged(
    source: Path, cache: SlideCache | None, open_at: Callable[[Path], AbstractContextManager[_Opened]]
) -> Iterator[_Opened]:
    """Open a slide from its copy; where the copy does not open, from `source`.

    Args:
        source: absolute path of the slide.
        cache: None for none.
        open_at: opens the slide at a path.
    """
    with staged(source, cache) as path:
        try:
            opened = open_at(path)
        except UnreadableSlideError as error:
            if path == source:
                raise
            logger.debug("%s: its copy does not open (%s); opened where it lies", source, error)
            opened = open_at(source)
        with opened as slide:
            yield slide


def _lease(source: Path, cache: SlideCache) -> Lease | None:
    if cache.is_inside(source):
        return None
    try:
        return cache.acquire(source)
    except (BeingCopiedError, NoSlotError) as error:
        logger.debug("%s: read where it lies: %s", source, error)
    except NoRoomError as error:
        say_once("full", f"{cache.folder}: the disk is full; slides that do not fit are read where they lie ({error})")
    except SettingsError as error:
        say_once("unusable", f"{error}; slides are read where they lie")
    except (NotStagedError, OSError, TridentError) as error:
        logger.info("%s: read where it lies: %s", source, error)
    return None


def say_once(kind: str, message: str) -> None:
    """Log a warning that would come with every slide; only the first of its kind."""
    if kind not in _said:
        _said.add(kind)
        logger.warning("%s", message)
