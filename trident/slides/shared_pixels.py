"""Decoded plain images, each held once in a process however often its file is open."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from PIL import Image

from trident.slides.base import RGBImage

_BAND_PX = 1 << 22


class SharedPixels:
    """The pixels of one file, decoded at the first call of `get`; forgotten when nobody holds this object any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pixels: RGBImage | None = None

    def get(self, decode: Callable[[], RGBImage]) -> RGBImage:
        """The pixels; `decode` runs once, and again only after it raised. Nobody may change them."""
        with self._lock:
            if self._pixels is None:
                self._pixels = decode()
                self._pixels.flags.writeable = False
            return self._pixels


_lock = threading.Lock()
_open: WeakValueDictionary[tuple[int, int, int, int], SharedPixels] = WeakValueDictionary()


def shared_pixels(path: Path) -> SharedPixels:
    """The one object for a file as it is now: a changed file has another."""
    status = os.stat(path)  # noqa: PTH116 - the file's own numbers, links followed
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    with _lock:
        found = _open.get(key)
        if found is None:
            found = _open[key] = SharedPixels()
        return found


def rgb_pixels(image: Image.Image) -> RGBImage:
    """An image as uint8 (height, width, 3), band by band: Pillow's own conversion would make two more whole copies."""
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(1, _BAND_PX // image.width)
    for top_px in range(0, image.height, rows):
        bottom_px = min(top_px + rows, image.height)
        band = image.crop((0, top_px, image.width, bottom_px))
        if band.mode == "La":  # premultiplied: Pillow has no direct way to RGB
            band = band.convert("LA")
        pixels[top_px:bottom_px] = np.asarray(band.convert("RGB"))
    return pixels
