"""Why a slide has no local copy. None of these reaches a user: the slide is then read where it lies."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from trident.errors import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class NotStagedError(Exception):
    """The slide is not copied; the message says why."""


class BeingCopiedError(NotStagedError):
    """Somebody else is copying this slide at this moment, or still reads an outdated copy of it."""


class NoSlotError(NotStagedError):
    """Every slot holds a slide that is read or still needed."""


class NoRoomError(NotStagedError):
    """The disk of the cache is full."""


class StoppedError(NotStagedError):
    """Whoever asked for the copy does not want it any more."""


@contextmanager
def full_disk_as_no_room() -> Iterator[None]:
    """Turn the errors of a full disk, whoever met it, into one.

    Raises:
        NoRoomError: instead of such an error of the block.
    """
    try:
        yield
    except (OSError, StoreError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        if isinstance(reason, OSError) and reason.errno in _FULL:
            raise NoRoomError(str(reason.strerror)) from error
        raise
