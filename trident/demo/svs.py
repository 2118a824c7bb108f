"""Writes an RGB image as an Aperio-style SVS: a classic TIFF of JPEG tiles with reduced levels and a thumbnail.

Tiles are encoded by OpenCV and the TIFF structure (TIFF 6.0 with its JPEG technical note) is written here, so no codec
package is needed. OpenSlide and cuCIM read the file. Limit: 4 GiB, far beyond any slide that is drawn.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from trident.store.atomic import atomic_path

TILE_PX = 256
LEVEL_DOWNSAMPLES = (1, 4, 16)
"""As Aperio scanners write them; a level whose shorter side would fall under `MIN_LEVEL_PX` is left out."""
MIN_LEVEL_PX = 64
THUMBNAIL_PX = 1024

_SHORT, _LONG, _ASCII = 3, 4, 2
_TAG_FORMATS = {_SHORT: "H", _LONG: "I"}
_JPEG, _YCBCR = 7, 6

_Tag = tuple[int, int, Sequence[int] | bytes]


def write_svs(path: Path, image: NDArray[np.uint8], *, mpp: float, magnification: float, quality: int = 88) -> None:
    """Write `image` and its reduced levels under `path`, which appears only once it is complete.

    Args:
        path: file to write; its folder is made where it is missing.
        image: level 0, uint8 RGB, shape (height, width, 3).
        mpp: µm/px of level 0.
        magnification: the scanner's objective, written as `AppMag`.
        quality: JPEG quality, 1 to 100.

    Raises:
        StoreError: the file cannot be written.
    """
    height_px, width_px = image.shape[:2]
    geometry = f"{width_px}x{height_px} [0,0 {width_px}x{height_px}] ({TILE_PX}x{TILE_PX})"
    vendor = "Aperio Image Library (synthetic slide)\r\n"
    facts = f"JPEG/RGB Q={quality}|AppMag = {magnification:g}|MPP = {mpp:g}"
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        writer = _TiffWriter(stream, quality)
        writer.tiled_page(image, f"{vendor}{geometry} {facts}")
        writer.stripped_page(_thumbnail(image), f"{vendor}{geometry} -> thumbnail {facts}")
        for downsample in LEVEL_DOWNSAMPLES[1:]:
            size = (width_px // downsample, height_px // downsample)
            if min(size) < MIN_LEVEL_PX:
                break
            level = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            writer.tiled_page(level, f"{vendor}{geometry} -> {size[0]}x{size[1]} {facts}")


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height_px, width_px = image.shape[:2]
    shrink = min(1.0, THUMBNAIL_PX / max(height_px, width_px))
    size = (max(1, round(width_px * shrink)), max(1, round(height_px * shrink)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _tiles(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Full tiles, row by row; the last ones repeat the image's edge, which keeps JPEG ringing out of it."""
    height_px, width_px = image.shape[:2]
    for top in range(0, height_px, TILE_PX):
        for left in range(0, width_px, TILE_PX):
            tile = image[top : top + TILE_PX, left : left + TILE_PX]
            below, right = TILE_PX - tile.shape[0], TILE_PX - tile.shape[1]
            if below or right:
                tile = np.pad(tile, ((0, below), (0, right), (0, 0)), mode="edge")
            yield tile


class _TiffWriter:
    """Appends pages to a little-endian classic TIFF."""

    def __init__(self, stream: BinaryIO, quality: int) -> None:
        self._stream = stream
        self._quality = quality
        stream.write(b"II" + struct.pack("<HI", 42, 0))
        self._link_at = 4

    def tiled_page(self, image: NDArray[np.uint8], description: str) -> None:
        offsets, lengths = [], []
        for tile in _tiles(image):
            offset, length = self._jpeg(tile)
            offsets.append(offset)
            lengths.append(length)
        layout: list[_Tag] = [(322, _SHORT, [TILE_PX]), (323, _SHORT, [TILE_PX])]
        self._page(image, description, [*layout, (324, _LONG, offsets), (325, _LONG, lengths)])

    def stripped_page(self, image: NDArray[np.uint8], description: str) -> None:
        offset, length = self._jpeg(image)
        layout: list[_Tag] = [(273, _LONG, [offset]), (278, _LONG, [image.shape[0]]), (279, _LONG, [length])]
        self._page(image, description, layout)

    def _jpeg(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        options = [cv2.IMWRITE_JPEG_QUALITY, self._quality]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        return self._append(encoded.tobytes())

    def _append(self, data: bytes) -> tuple[int, int]:
        """Write at an even offset, as TIFF wants it; returns the offset and the length."""
        offset = self._stream.seek(0, os.SEEK_END)
        if offset % 2:
            offset += self._stream.write(b"\0")
        self._stream.write(data)
        return offset, len(data)

    def _page(self, image: NDArray[np.uint8], description: str, layout: list[_Tag]) -> None:
        height_px, width_px = image.shape[:2]
        tags: list[_Tag] = [
            (254, _LONG, [0]),
            (256, _LONG, [width_px]),
            (257, _LONG, [height_px]),
            (258, _SHORT, [8, 8, 8]),
            (259, _SHORT, [_JPEG]),
            (262, _SHORT, [_YCBCR]),
            (270, _ASCII, description.encode("ascii") + b"\0"),
            (277, _SHORT, [3]),
            (284, _SHORT, [1]),
            (530, _SHORT, [2, 2]),
            *layout,
        ]
        entries = b"".join(self._entry(*tag) for tag in sorted(tags))
        directory, _ = self._append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
        self._stream.seek(self._link_at)
        self._stream.write(struct.pack("<I", directory))
        self._link_at = directory + 2 + len(entries)

    def _entry(self, tag: int, kind: int, values: Sequence[int] | bytes) -> bytes:
        data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_TAG_FORMATS[kind]}", *values)
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", self._append(data)[0])
        return struct.pack("<HHI", tag, kind, len(values)) + field
