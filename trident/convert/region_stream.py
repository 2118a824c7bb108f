"""A slide as a stream for libvips, which asks for bytes where a `Slide` gives regions.

libvips has no loader that calls back for pixels, but it reads a TIFF from any object with `read` and `seek`. So the
slide poses as an uncompressed BigTIFF of one RGB page in strips: all offsets follow from width and height, and a strip
is read from the slide when libvips gets there. Nothing is written to disk, and two strips are in memory.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from trident.slides.base import Slide

_SHORT, _LONG, _LONG8 = 3, 4, 16
_FORMATS = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
_PIECE_PX = 2048
"""Columns of a strip that one read takes."""
_ROWS_PX = 256
"""Rows of a strip, at least; they grow to whole tiles of the slide, so that no tile is decoded twice."""
_MAX_ROWS_PX = 1024


class RegionStream:
    """Level 0 of a slide as the bytes of an uncompressed BigTIFF. To be read by one thread at a time.

    Args:
        slide: stays open while the stream is read.
        threads: that read the slide.
    """

    def __init__(self, slide: Slide, threads: int) -> None:
        self._slide = slide
        self._width_px, self._height_px = slide.dimensions
        self._rows_px = _rows_of_strip(slide)
        self._header = tiff_header(self._width_px, self._height_px, self._rows_px)
        self._size_bytes = len(self._header) + self._width_px * self._height_px * 3
        self._position = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="region")
        self._strips: dict[int, tuple[NDArray[np.uint8], list[Future[None]]]] = {}
        self.failure: BaseException | None = None
        """What kept a region from being read; libvips itself only sees the stream end."""

    def read(self, n_bytes: int) -> bytes | memoryview | None:
        """Up to so many bytes from the current position; None at the end, or where the slide cannot be read."""
        if self._position >= self._size_bytes or self.failure is not None:
            return None
        if self._position < len(self._header):
            chunk: bytes | memoryview = self._header[self._position : self._position + n_bytes]
        else:
            index, offset = divmod(self._position - len(self._header), self._rows_px * self._width_px * 3)
            strip = self._strip(index)
            if strip is None:
                return None
            chunk = strip.reshape(-1).data[offset : offset + n_bytes]
        self._position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int) -> int:
        """Move as `io.IOBase.seek` does; returns the new position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = start + offset
        return self._position

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._strips.clear()

    def _strip(self, index: int) -> NDArray[np.uint8] | None:
        """Strip `index`, with the next one on its way; None where it cannot be read."""
        for wanted in (index, index + 1):
            if wanted not in self._strips and wanted * self._rows_px < self._height_px:
                self._strips[wanted] = self._begin(wanted)
        for old in [known for known in self._strips if known not in (index, index + 1)]:
            del self._strips[old]
        pixels, reads = self._strips[index]
        for read in reads:
            error = read.exception()
            if error is not None:
                self.failure = error
                return None
        return pixels

    def _begin(self, index: int) -> tuple[NDArray[np.uint8], list[Future[None]]]:
        top_px = index * self._rows_px
        rows_px = min(self._rows_px, self._height_px - top_px)
        pixels = np.empty((rows_px, self._width_px, 3), np.uint8)

        def fill(left_px: int) -> None:
            columns_px = min(_PIECE_PX, self._width_px - left_px)
            region = self._slide.read_region((left_px, top_px), 0, (columns_px, rows_px))
            pixels[:, left_px : left_px + columns_px] = region

        return pixels, [self._pool.submit(fill, left_px) for left_px in range(0, self._width_px, _PIECE_PX)]


def _rows_of_strip(slide: Slide) -> int:
    axes, chunk = slide.properties.get("omezarr.axes", ""), slide.properties.get("omezarr.chunks", "").split(" x ")
    chunk_height = chunk[axes.index("y")] if "y" in axes and len(chunk) == len(axes) else ""
    tile_height = slide.properties.get("openslide.level[0].tile-height", chunk_height)
    tile_px = int(tile_height) if tile_height.isascii() and tile_height.isdigit() else 0
    if not 0 < tile_px <= _MAX_ROWS_PX:
        return _ROWS_PX
    return -(-_ROWS_PX // tile_px) * tile_px


def tiff_header(width_px: int, height_px: int, rows_px: int) -> bytes:
    """Head and directory of a little-endian BigTIFF: one uncompressed 8-bit RGB page, whose strips follow at once.

    Args:
        width_px: of the page.
        height_px: of the page.
        rows_px: rows of a strip; the last one may have fewer.
    """
    n_strips = -(-height_px // rows_px)
    strip_bytes = rows_px * width_px * 3
    last_bytes = (height_px - (n_strips - 1) * rows_px) * width_px * 3
    counts = [strip_bytes] * (n_strips - 1) + [last_bytes]

    def header(first_byte: int) -> bytes:
        entries: list[tuple[int, int, Sequence[int]]] = [
            (256, _LONG, [width_px]),
            (257, _LONG, [height_px]),
            (258, _SHORT, [8, 8, 8]),
            (259, _SHORT, [1]),  # no compression
            (262, _SHORT, [2]),  # RGB
            (273, _LONG8, [first_byte + index * strip_bytes for index in range(n_strips)]),
            (277, _SHORT, [3]),
            (278, _LONG, [rows_px]),
            (279, _LONG8, counts),
            (284, _SHORT, [1]),  # RGBRGB
        ]
        directory, values = b"", b""
        values_at = 16 + 8 + 20 * len(entries) + 8
        for tag, kind, numbers in entries:
            data = struct.pack(f"<{len(numbers)}{_FORMATS[kind]}", *numbers)
            if len(data) > 8:
                field = struct.pack("<Q", values_at + len(values))
                values += data
            else:
                field = data.ljust(8, b"\0")
            directory += struct.pack("<HHQ", tag, kind, len(numbers)) + field
        return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries)) + directory + struct.pack("<Q", 0) + values

    return header(len(header(0)))
