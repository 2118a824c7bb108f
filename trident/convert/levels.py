"""Sizes of the levels of a pyramid, and how large its file can get. Plain arithmetic."""

from __future__ import annotations

TILE_PX = 256
CLASSIC_LIMIT_BYTES = 1 << 32
"""Offsets of a classic TIFF are of 32 bits."""

_WORST_BYTES_PER_PX = 6
"""More than any pyramid takes: 5.7 bytes were measured for noise at quality 100."""


def needs_bigtiff(width_px: int, height_px: int) -> bool:
    """Whether a pyramid of this level 0 could exceed what a classic TIFF can hold, whatever its content."""
    return width_px * height_px * _WORST_BYTES_PER_PX >= CLASSIC_LIMIT_BYTES


def level_sizes(width_px: int, height_px: int) -> list[tuple[int, int]]:
    """(width, height) of the levels: each half the one before, rounded down, until a tile holds it or it is a line."""
    sizes = [(width_px, height_px)]
    while max(sizes[-1]) > TILE_PX and min(sizes[-1]) > 1:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes
