"""The JPEG tiles of one pyramid level, decoded by libjpeg-turbo straight from the file.

The decoder is the one inside OpenSlide, so the pixels are the same bits; here it runs without the interpreter lock and
a tile is decoded once for all patches that touch it. Every warning of the decoder counts as damage, and such a tile is
left to OpenSlide, which decides what becomes of it.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
import weakref
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from trident.slides.base import RGBImage
from trident.slides.eligibility import TiledPage

logger = logging.getLogger(__name__)

_START, _END = b"\xff\xd8", b"\xff\xd9"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""Adobe's marker, whose last byte, still to follow, says how colour is coded; tiles in a TIFF seldom do."""
_RGB, _YCBCR = b"\x00", b"\x01"


@lru_cache(maxsize=1)
def jpeg_decoder() -> ModuleType | None:
    """The module `simplejpeg`, or None where it does not load; slides are then read region by region."""
    try:
        return importlib.import_module("simplejpeg")
    except (ImportError, OSError) as error:
        logger.info("JPEG tiles are not decoded directly (%s); install simplejpeg for several times the speed", error)
        return None


class JpegTiles:
    """Decodes the tiles of one level of a TIFF. Safe to use from several threads at once.

    Args:
        path: the TIFF file.
        page: the level.
        decoder: what `jpeg_decoder` gives.
    """

    def __init__(self, path: Path, page: TiledPage, decoder: ModuleType) -> None:
        self.size = page.size
        """(width, height) of the level in pixels."""
        self.tile_size = page.tile_size
        """(width, height)."""
        self.tiles_across = page.tiles_across
        self.tiles_down = -(-page.size[1] // page.tile_size[1])
        self._decode_jpeg = decoder.decode_jpeg
        self._offsets, self._byte_counts = page.offsets, page.byte_counts
        self._shape = (page.tile_size[1], page.tile_size[0], 3)
        tables = page.jpeg_tables.removeprefix(_START).removesuffix(_END)
        self._prefix = _START + _ADOBE + (_YCBCR if page.is_ycbcr else _RGB) + tables
        self.read_s = 0.0
        """Seconds, over all threads, of waiting for the file's bytes."""
        self._counting = threading.Lock()
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)

    def decode(self, index: int, out: RGBImage) -> bool:
        """Decode one tile, numbered row by row.

        Args:
            index: number of the tile.
            out: where its pixels go, uint8 (tile height, tile width, 3), contiguous.

        Returns:
            False where the tile is absent or not wholly sound; `out` then holds anything.
        """
        n_bytes, offset = int(self._byte_counts[index]), int(self._offsets[index])
        if n_bytes <= 0 or offset <= 0:
            return False
        began = time.perf_counter()
        try:
            data = os.pread(self._descriptor, n_bytes, offset)
        except OSError:  # a network folder that hesitates: whoever reads the tile another way tries again
            return False
        finally:
            with self._counting:
                self.read_s += time.perf_counter() - began
        if len(data) != n_bytes or not data.startswith(_START):
            return False
        try:
            decoded = self._decode_jpeg(self._prefix + data[2:], buffer=out, strict=True)
        except ValueError:
            return False
        return bool(decoded.shape == self._shape)
