"""Slots of a GPU, shared by all runs of this user on this host: a run takes one before it sends a slide there.

A slot is a file that is locked with `flock`, so it comes free with its holder, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ASK_EVERY_S = 0.2


@contextmanager
def device_lease(folder: Path, device: str, slots: int, wait: Callable[[float], None]) -> Iterator[None]:
    """Hold one of a device's slots.

    Args:
        folder: where the files lie; the same for all runs that are to share.
        device: physical name of the device, such as `0` or a UUID.
        slots: slides in flight on it at once.
        wait: called with seconds until all slots are tried again; may raise to give up.
    """
    name = re.sub(r"[^A-Za-z0-9-]", "_", device)
    while True:
        for slot in range(slots):
            handle = os.open(folder / f"gpu-{name}.{slot}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            try:
                yield
            finally:
                os.close(handle)
            return
        wait(_ASK_EVERY_S)
