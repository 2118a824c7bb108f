"""What a slide file may claim about itself. Larger claims are refused before a library believes them.

A few bytes can claim a trillion pixels. OpenSlide's memory allocator ends the whole process where such a claim is taken
at its word, so a TIFF's tags are looked at before OpenSlide sees the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from trident.errors import UnreadableSlideError

MAX_SIDE_PX = 1 << 20
"""Longest side of a slide: 10 cm of glass at 0.1 µm/px."""

MAX_TILE_PX = 1 << 26
"""Pixels of one tile, which is decoded whole; 256 MiB with four bytes a pixel."""

MIN_TILE_SIDE_PX = 16
"""Shortest side of a tile, by the TIFF specification; OpenSlide divides by zero on some shorter ones."""

MAX_PX_PER_BYTE = 1024
"""Most pixels that a byte of a file may stand for: JPEG needs a byte for 171, and little of a slide is bare glass."""

SMALL_PX = 1 << 28
"""So many pixels (16,384 x 16,384) a file of any length may claim: they are read in seconds."""

MAX_DIRECTORIES = 1000
"""Images in one TIFF; a slide has a dozen."""

_MAX_ENTRIES = 1000
_CLASSIC_LIMIT_BYTES = 1 << 32
_ORDERS = {b"II": "<", b"MM": ">"}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""TIFF types of whole numbers; others do not occur in the tags below."""
_SUBFILE_TYPE, _REDUCED = 254, 1
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 256, 257, 322, 323, 324, 325
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR = 273, 277, 278, 279, 284
_NUMBERS = (_SUBFILE_TYPE, _WIDTH, _LENGTH, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_LENGTH)
_TILE_LISTS = (_TILE_OFFSETS, _TILE_COUNTS)
_STRIP_LISTS = (_STRIP_OFFSETS, _STRIP_COUNTS)
_SEPARATE_PLANES = 2


def require_size(path: Path, sizes: Sequence[tuple[int, int]], *, size_bytes: int | None = None) -> None:
    """Check (width, height) of a slide's levels, or of an image.

    Args:
        path: the file, for the message.
        sizes: level 0 first, in pixels.
        size_bytes: length of the file where it alone holds the pixels; None where others may (DICOM, MRXS).

    Raises:
        UnreadableSlideError: one is larger than level 0, or than the limits of this module.
    """
    for level, (width_px, height_px) in enumerate(sizes):
        if width_px > sizes[0][0] or height_px > sizes[0][1]:
            raise UnreadableSlideError(
                path,
                f"its level {level} claims {width_px:,} x {height_px:,} px and its level 0 only {sizes[0][0]:,} x "
                f"{sizes[0][1]:,} px; it is damaged: fetch it again",
            )
        if max(width_px, height_px) > MAX_SIDE_PX:
            raise UnreadableSlideError(
                path,
                f"it claims {width_px:,} x {height_px:,} px, more than {MAX_SIDE_PX:,} px a side; "
                "it is damaged: fetch it again",
            )
        if size_bytes is not None and width_px * height_px > max(SMALL_PX, MAX_PX_PER_BYTE * size_bytes):
            raise UnreadableSlideError(
                path,
                f"it claims {width_px:,} x {height_px:,} px, which {size_bytes:,} bytes cannot hold; "
                "it is damaged or cut off: fetch it again",
            )


def require_plausible_tiff(path: Path) -> None:
    """Check what the directories of a TIFF claim; any other file, or one that does not parse, passes.

    Raises:
        UnreadableSlideError: sizes or tiles beyond the limits of this module, more tiles than the file can list, fewer
            than the image needs, tiles longer than the file, or directories in a loop.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        for directory in _directories(file, path, size_bytes):
            _check(path, directory, size_bytes)
            _check_tiles(path, file, directory, size_bytes)


def lists_are_exact(path: Path) -> bool:
    """Whether every directory of a TIFF lists as many tiles, or strips, as its image consists of.

    OpenSlide goes by what the image consists of. cuCIM copies as many as the list claims, from an array that is not
    longer than the image needs, and takes the process down.

    Raises:
        UnreadableSlideError: the directories are in a loop, or too many.
    """
    with path.open("rb") as file:
        return all(_is_exact(directory) for directory in _directories(file, path, path.stat().st_size))


def unmarked_pages(path: Path) -> int:
    """Chained directories of a TIFF after the first that are not marked as reduced images, as pyramid levels are.

    Raises:
        UnreadableSlideError: the directories are in a loop, or too many.
    """
    with path.open("rb") as file:
        pages = list(_directories(file, path, path.stat().st_size))
    return sum(not page.values.get(_SUBFILE_TYPE, 0) & _REDUCED for page in pages[1:])


@dataclass
class _Directory:
    """The numbers of one directory that say how large something is."""

    order: str
    values: dict[int, int] = field(default_factory=dict)
    """Tag -> its one number."""
    arrays: list[tuple[int, str, int, int]] = field(default_factory=list)
    """Lists of tiles: tag, type code, first byte in the file and number of values. A damaged file can repeat a tag."""
    list_lengths: list[tuple[int, int]] = field(default_factory=list)
    """Lists of tiles and strips: tag and number of values."""

    @property
    def is_tiled(self) -> bool:
        """Whether the image consists of tiles, not strips."""
        return {_TILE_WIDTH, _TILE_LENGTH} <= self.values.keys()


def _check(path: Path, directory: _Directory, size_bytes: int) -> None:
    values = directory.values
    if not directory.is_tiled:
        return  # strips: OpenSlide reads them as labels only, or (Hamamatsu) in its own way
    tile_width_px, tile_length_px = values[_TILE_WIDTH], values[_TILE_LENGTH]
    if min(tile_width_px, tile_length_px) < MIN_TILE_SIDE_PX:
        raise UnreadableSlideError(
            path, f"its tiles claim {tile_width_px} x {tile_length_px} px, which no TIFF has; fetch it again"
        )
    require_size(path, [(values.get(_WIDTH, 0), values.get(_LENGTH, 0))], size_bytes=size_bytes)
    if tile_width_px * tile_length_px > MAX_TILE_PX:
        raise UnreadableSlideError(
            path,
            f"its tiles claim {tile_width_px:,} x {tile_length_px:,} px, more than {MAX_TILE_PX:,} px; "
            "it is damaged, or must be written with smaller tiles (with libtiff: `tiffcp -t -w 256 -l 256`)",
        )


def _check_tiles(path: Path, file: BinaryIO, directory: _Directory, size_bytes: int) -> None:
    needed = _pieces(directory.values) if directory.is_tiled else 0
    for tag, form, first, count in directory.arrays:
        n_bytes = count * struct.calcsize(form)
        if first + n_bytes > size_bytes:
            raise UnreadableSlideError(path, "its list of tiles reaches beyond the end of the file; fetch it again")
        if count < needed:  # OpenSlide gives black for the others
            raise UnreadableSlideError(
                path, f"it lists {count:,} tiles where its size needs {needed:,}; it is damaged: fetch it again"
            )
        if tag == _TILE_COUNTS:
            file.seek(first)
            longest = int(np.frombuffer(file.read(n_bytes), directory.order + form).max(initial=0))
            if longest > size_bytes:
                raise UnreadableSlideError(
                    path, f"one of its tiles claims {longest:,} bytes, more than the whole file has; fetch it again"
                )


def _is_exact(directory: _Directory) -> bool:
    values = directory.values
    planes = values.get(_SAMPLES, 1) if values.get(_PLANAR) == _SEPARATE_PLANES else 1
    pieces = _pieces(values) * planes
    tags = _TILE_LISTS if directory.is_tiled else _STRIP_LISTS
    return pieces > 0 and sorted(directory.list_lengths) == [(tag, pieces) for tag in tags]


def _pieces(values: Mapping[int, int]) -> int:
    """Tiles, or strips, of one plane of an image; 0 where its tags make no sense."""
    width_px, length_px = values.get(_WIDTH, 0), values.get(_LENGTH, 0)
    piece_width_px = values.get(_TILE_WIDTH, width_px)
    piece_length_px = values.get(_TILE_LENGTH, values.get(_ROWS_PER_STRIP, length_px))
    if min(width_px, length_px, piece_width_px, piece_length_px) < 1:
        return 0
    return -(-width_px // piece_width_px) * -(-length_px // piece_length_px)


def _directories(file: BinaryIO, path: Path, size_bytes: int) -> Iterator[_Directory]:
    """The chained directories, up to the first that does not parse.

    Raises:
        UnreadableSlideError: they are in a loop, in which libraries read for ever, or too many.
    """
    head = file.read(16)
    order = _ORDERS.get(head[:2])
    if order is None or len(head) < 16:
        return
    magic, offset_bytes = struct.unpack_from(order + "HH", head, 2)
    if magic == 43 and offset_bytes == 8:
        offset_format, count_format, first_at = "Q", "Q", 8
    elif magic == 42 and size_bytes < _CLASSIC_LIMIT_BYTES:  # beyond, Hamamatsu's own kind with offsets of 64 bits
        offset_format, count_format, first_at = "I", "H", 4
    else:
        return
    (at,) = struct.unpack_from(order + offset_format, head, first_at)
    seen: set[int] = set()
    while 0 < at < size_bytes:
        if at in seen or len(seen) >= MAX_DIRECTORIES:
            what = "form a loop" if at in seen else f"are more than {MAX_DIRECTORIES:,}"
            raise UnreadableSlideError(path, f"its TIFF directories {what}; it is damaged, or no slide: fetch it again")
        seen.add(at)
        file.seek(at)
        count_field = file.read(struct.calcsize(count_format))
        if len(count_field) < struct.calcsize(count_format):
            return
        (n_entries,) = struct.unpack(order + count_format, count_field)
        if n_entries > _MAX_ENTRIES:
            return
        entry_bytes = 4 + 2 * struct.calcsize(offset_format)
        body = file.read(n_entries * entry_bytes + struct.calcsize(offset_format))
        if len(body) < n_entries * entry_bytes:
            return
        yield _parse(body, at + len(count_field), n_entries, order + offset_format)
        if len(body) < n_entries * entry_bytes + struct.calcsize(offset_format):
            return
        (at,) = struct.unpack_from(order + offset_format, body, n_entries * entry_bytes)


def _parse(body: bytes, body_at: int, n_entries: int, offset: str) -> _Directory:
    """The directory whose entries stand at `body_at` of the file; `offset` is the struct code of a position."""
    order = offset[0]
    directory = _Directory(order)
    offset_bytes = struct.calcsize(offset)
    for start in range(0, n_entries * (4 + 2 * offset_bytes), 4 + 2 * offset_bytes):
        tag, kind, count = struct.unpack_from(f"{order}HH{offset[1]}", body, start)
        if tag in (*_TILE_LISTS, *_STRIP_LISTS):
            directory.list_lengths.append((tag, count))
        form = _INTEGERS.get(kind)
        if form is None:
            continue
        value_at = start + 4 + offset_bytes
        if tag in _NUMBERS and count == 1:
            directory.values[tag] = struct.unpack_from(order + form, body, value_at)[0]
        elif tag in _TILE_LISTS:
            is_inside = count * struct.calcsize(form) <= offset_bytes
            first = body_at + value_at if is_inside else struct.unpack_from(offset, body, value_at)[0]
            directory.arrays.append((tag, form, first, count))
    return directory
