"""Damaged slides, made from sound ones: bytes in, bytes out, the same for the same random generator."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, SUBFILE, JPEG_TABLES = 322, 323, 324, 325, 330, 347

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TYPE_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_DIRECTORIES = 64
_NUMBERS = (0, 1, 2, 3, 7, 15, 16, 255, 256, 4095, 32767, 32768, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31)
_HUGE = (65535, 100_000, 1 << 20, 10_000_000, (1 << 31) - 1, (1 << 32) - 1)
_CODECS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 33003, 33004, 33005, 34712, 34925, 50000, 50001, 50002, 52479)
_RESOLUTIONS = ("nan", "-0.25", "0", "inf", "1e400", "1e-300", "0,25", "abc", "9" * 400, "0.25\x00", "0.25\n|MPP = -1")


@dataclass(frozen=True)
class Entry:
    """One tag of a TIFF directory."""

    at: int
    """Where its 12 (or, in a BigTIFF, 20) bytes begin."""
    tag: int
    type: int
    count: int
    value_at: int
    """Where its values begin."""


@dataclass(frozen=True)
class Tiff:
    """Where the tags of a TIFF lie."""

    order: str
    is_big: bool
    entries: tuple[Entry, ...]
    next_pointers: tuple[int, ...]
    """Where the position of each next directory stands; the first is in the file's header."""

    def having(self, *tags: int) -> list[Entry]:
        """Entries with one of these tags."""
        return [entry for entry in self.entries if entry.tag in tags]


def parse_tiff(data: bytes) -> Tiff | None:
    """The directories of a sound TIFF; None for any other file."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic not in (42, 43):
        return None
    is_big = magic == 43
    pointer = 8 if is_big else 4
    entries: list[Entry] = []
    pointers: list[int] = []
    while len(pointers) < _MAX_DIRECTORIES:
        pointers.append(pointer)
        (directory,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, pointer)
        if directory == 0:
            break
        (n_entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, directory)
        at = directory + (8 if is_big else 2)
        for _ in range(n_entries):
            entries.append(_entry(data, at, order, is_big))
            at += 20 if is_big else 12
        pointer = at
    return Tiff(order, is_big, tuple(entries), tuple(pointers))


def _entry(data: bytes, at: int, order: str, is_big: bool) -> Entry:
    tag, kind, count = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), data, at)
    inside = at + (12 if is_big else 8)
    n_bytes = _TYPE_BYTES.get(kind, 1) * count
    if n_bytes <= (8 if is_big else 4):
        return Entry(at, tag, kind, count, inside)
    (value_at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, inside)
    return Entry(at, tag, kind, count, value_at)


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    """One damaged copy of a slide: (kind of damage, its bytes)."""
    tiff = parse_tiff(data)
    kinds = {**_PLAIN, **(_TIFF if tiff is not None else {})}
    names = sorted(kinds)
    while True:
        name = random.choice(names)
        mutant = bytearray(data)
        if tiff is not None and name in _TIFF:
            _TIFF[name](mutant, tiff, random)
        else:
            _PLAIN[name](mutant, random)
        if random.random() < 0.1 and len(mutant) > 1:  # damage on damage
            _flip(mutant, random)
        if bytes(mutant) != data:
            return name, bytes(mutant)


# Damage to any file.


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 4, 64, 1024))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _flip_in_front(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 4, 16))):
        data[random.randrange(min(len(data), 1024))] ^= 1 << random.randrange(8)


def _cut(data: bytearray, random: Random) -> None:
    keep = random.choice((random.randrange(1, 64), random.randrange(1, len(data)), len(data) - random.randrange(1, 64)))
    del data[max(1, keep) :]


def _cut_out(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.choice((1, 2, 7, 512, 65536))]


def _overwrite(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    length = min(random.choice((4, 64, 4096, 1 << 18)), len(data) - at)
    filling = random.choice((b"\0", b"\xff", None))
    data[at : at + length] = random.randbytes(length) if filling is None else filling * length


def _copy_over(data: bytearray, random: Random) -> None:
    length = random.choice((16, 256, 8192))
    source, target = random.randrange(len(data)), random.randrange(len(data))
    block = data[source : source + length]
    data[target : target + len(block)] = block


def _claim_in_image(data: bytearray, random: Random) -> None:
    """Dimensions in the header of a PNG or in a frame header of a JPEG; elsewhere the first such bytes."""
    if data[:4] == b"\x89PNG":
        struct.pack_into(">II", data, 16, random.choice(_HUGE) % (1 << 31), random.choice(_HUGE) % (1 << 31))
        return
    frames = [at for marker in (b"\xff\xc0", b"\xff\xc2") for at in _places(data, marker)]
    if frames:
        at = random.choice(frames)
        if at + 9 <= len(data):
            struct.pack_into(">HH", data, at + 5, random.choice((0, 1, 8, 65535)), random.choice((0, 1, 8, 65535)))


def _damage_jpeg_header(data: bytearray, random: Random) -> None:
    """Quantisation and Huffman tables, restart intervals, scan headers."""
    markers = (b"\xff\xdb", b"\xff\xc4", b"\xff\xdd", b"\xff\xda", b"\xff\xc0", b"\xff\x52", b"\xff\x51")
    places = [at for marker in markers for at in _places(data, marker)]
    if places:
        at = random.choice(places)
        for _ in range(random.choice((1, 2, 8))):
            where = at + random.randrange(1, 24)
            if where < len(data):
                data[where] = random.randrange(256)


def _places(data: bytearray, marker: bytes) -> list[int]:
    found, at = [], data.find(marker)
    while at >= 0 and len(found) < 200:
        found.append(at)
        at = data.find(marker, at + 1)
    return found


# Damage to the directories of a TIFF.


def _write(data: bytearray, tiff: Tiff, entry: Entry, value: int, index: int = 0) -> None:
    form = _TYPE_FORMATS.get(entry.type, "H")
    at = entry.value_at + index * struct.calcsize(form)
    if at + struct.calcsize(form) <= len(data):
        struct.pack_into(tiff.order + form, data, at, value % (1 << (8 * struct.calcsize(form))))


def _widen(data: bytearray, tiff: Tiff, entry: Entry) -> Entry:
    """The entry of one short number made one that holds 32 bits."""
    if entry.type == 3 and entry.count == 1:
        struct.pack_into(tiff.order + "H", data, entry.at + 2, 4)
        return Entry(entry.at, entry.tag, 4, 1, entry.value_at)
    return entry


def _set(data: bytearray, tiff: Tiff, random: Random, tags: tuple[int, ...], values: tuple[int, ...]) -> None:
    chosen = tiff.having(*tags)
    for entry in random.sample(chosen, min(len(chosen), random.choice((1, 1, 2, 8)))):
        value = random.choice(values)
        wide = _widen(data, tiff, entry) if value > 65535 else entry
        _write(data, tiff, wide, value)


def _dimensions(data: bytearray, tiff: Tiff, random: Random) -> None:
    _set(data, tiff, random, (WIDTH, LENGTH), (*_HUGE, 0, 1, 17))


def _tile_size(data: bytearray, tiff: Tiff, random: Random) -> None:
    _set(data, tiff, random, (TILE_WIDTH, TILE_LENGTH, ROWS_PER_STRIP), (*_HUGE, 0, 1, 16, 17, 4096, 1 << 15))


def _gigantic(data: bytearray, tiff: Tiff, random: Random) -> None:
    """Everything large at once: what an image bomb looks like."""
    side = random.choice(_HUGE)
    for entry in tiff.having(WIDTH, LENGTH):
        _write(data, tiff, _widen(data, tiff, entry), side)
    if random.random() < 0.5:
        for entry in tiff.having(TILE_WIDTH, TILE_LENGTH):
            _write(data, tiff, _widen(data, tiff, entry), side // 16 * 16)
    if random.random() < 0.5:
        _entry_counts(data, tiff, random)


def _entry_counts(data: bytearray, tiff: Tiff, random: Random) -> None:
    """How many values a tag has: tiles, above all."""
    tags = (TILE_OFFSETS, TILE_COUNTS, STRIP_OFFSETS, STRIP_COUNTS, BITS, JPEG_TABLES, DESCRIPTION)
    for entry in random.sample(tiff.having(*tags), 1):
        value = random.choice((0, 1, entry.count - 1, entry.count + 1, *_HUGE)) % (1 << 32)
        struct.pack_into(tiff.order + ("Q" if tiff.is_big else "I"), data, entry.at + 4, value)


def _tile_places(data: bytearray, tiff: Tiff, random: Random) -> None:
    """Where tiles lie, and how long they are."""
    chosen = tiff.having(TILE_OFFSETS, TILE_COUNTS, STRIP_OFFSETS, STRIP_COUNTS)
    entry = random.choice(chosen)
    for _ in range(random.choice((1, 8, entry.count))):
        value = random.choice((0, 1, 4, entry.at, len(data) - 1, len(data), len(data) + 4096, *_HUGE))
        _write(data, tiff, entry, value, random.randrange(entry.count))


def _codec(data: bytearray, tiff: Tiff, random: Random) -> None:
    _set(data, tiff, random, (COMPRESSION,), _CODECS)


def _pixel_format(data: bytearray, tiff: Tiff, random: Random) -> None:
    _set(data, tiff, random, (PHOTOMETRIC, SAMPLES, PLANAR, BITS), (0, 1, 2, 3, 4, 5, 6, 8, 16, 32, 255, 65535))


def _any_number(data: bytearray, tiff: Tiff, random: Random) -> None:
    entry = random.choice(tiff.entries)
    _write(data, tiff, entry, random.choice(_NUMBERS), random.randrange(max(1, min(entry.count, 4096))))


def _entry_types(data: bytearray, tiff: Tiff, random: Random) -> None:
    struct.pack_into(tiff.order + "H", data, random.choice(tiff.entries).at + 2, random.choice((0, *range(1, 19), 99)))


def _other_tag(data: bytearray, tiff: Tiff, random: Random) -> None:
    known = (WIDTH, LENGTH, TILE_WIDTH, TILE_OFFSETS, STRIP_OFFSETS, JPEG_TABLES, SUBFILE, 65000, 65420, 0)
    struct.pack_into(tiff.order + "H", data, random.choice(tiff.entries).at, random.choice(known))


def _swap_entries(data: bytearray, tiff: Tiff, random: Random) -> None:
    size = 20 if tiff.is_big else 12
    one, other = random.choice(tiff.entries).at, random.choice(tiff.entries).at
    first = 2 if random.random() < 0.5 else 0  # half of the time the tags stay and only what they hold is swapped
    kept = data[one + first : one + size]
    data[one + first : one + size] = data[other + first : other + size]
    data[other + first : other + size] = kept


def _loop(data: bytearray, tiff: Tiff, random: Random) -> None:
    """A next directory that was there before, or that is none."""
    form = tiff.order + ("Q" if tiff.is_big else "I")
    (first,) = struct.unpack_from(form, data, tiff.next_pointers[0])
    target = random.choice((first, first, first + 2, random.choice(tiff.next_pointers), random.randrange(len(data))))
    struct.pack_into(form, data, random.choice(tiff.next_pointers[1:] or tiff.next_pointers), target)


def _description(data: bytearray, tiff: Tiff, random: Random) -> None:
    for entry in tiff.having(DESCRIPTION):
        text = bytes(data[entry.value_at : entry.value_at + entry.count])
        at = text.find(random.choice((b"MPP = ", b"AppMag = ", b"Aperio")))
        new = random.choice(_RESOLUTIONS).encode()[: max(0, len(text) - max(at, 0) - 7)]
        start = entry.value_at + max(at, 0) + 6
        data[start : start + len(new)] = new


_PLAIN: dict[str, Callable[[bytearray, Random], None]] = {
    "bits flipped": _flip,
    "bits flipped in front": _flip_in_front,
    "cut off": _cut,
    "piece cut out": _cut_out,
    "piece overwritten": _overwrite,
    "piece copied over": _copy_over,
    "claim in an image header": _claim_in_image,
    "JPEG header damaged": _damage_jpeg_header,
}
_TIFF: dict[str, Callable[[bytearray, Tiff, Random], None]] = {
    "dimensions": _dimensions,
    "tile size": _tile_size,
    "gigantic": _gigantic,
    "number of tiles": _entry_counts,
    "places of tiles": _tile_places,
    "compression": _codec,
    "pixel format": _pixel_format,
    "any tag's number": _any_number,
    "type of a tag": _entry_types,
    "another tag": _other_tag,
    "tags swapped": _swap_entries,
    "loop of directories": _loop,
    "description": _description,
}
KINDS = (*_PLAIN, *_TIFF)
"""Every kind of damage."""
