"""OpenSlide's pixels at a position between the pixels of a level, computed from the level's own pixels.

OpenSlide lets cairo paint one tile after the other, from the bottom right to the top left, each moved by the fraction
of a pixel with bilinear interpolation in floating point, onto a canvas of 8 bits. So two things happen:

- Inside a tile a pixel is the weighted mean of its four neighbours, m in 0 to 255, stored as floor(m * 256 / 255).
- Beyond a tile's border there is nothing: in the last column and row of a tile two tiles (at a corner four) each leave
  a part of a pixel, weighted by how much of it they cover, and every part is rounded down by itself.

Found by comparison: about one value in fifty thousand is one grey level off OpenSlide's, none more.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trident.slides.base import RGBImage

_FULL = 255
_STEPS = 256 / 255
_FLOOR = -0.5 + 1e-4
"""OpenCV rounds to the nearest, therefore half a grey level less; what is a whole number, but for noise, stays."""

_own = threading.local()
"""Each thread's memory for what comes between: new memory for every region costs ten times the arithmetic."""
_KEPT_PX = 1 << 20
"""Of larger regions nothing is kept."""


@dataclass(frozen=True)
class Shift:
    """Where a region begins in the level, and what lies around it."""

    right: float
    """Fraction of a pixel, 0 to 1 (exclusive), by which the region begins right of a pixel of the level."""
    down: float
    last_columns: tuple[int, ...]
    """Columns of the region that begin in the last column of a tile; rows likewise."""
    last_rows: tuple[int, ...]


def shifted(pixels: RGBImage, shift: Shift, out: RGBImage) -> None:
    """Pixels between pixels.

    Args:
        pixels: the level's own, uint8 (height + 1, width + 1, 3).
        shift: where between them.
        out: the result, uint8 (height, width, 3), contiguous.
    """
    right, down = shift.right, shift.down
    whole, rows, mixed = _between(out.shape[0], out.shape[1])
    np.copyto(whole, pixels)
    cv2.addWeighted(whole[:, :-1], 1 - right, whole[:, 1:], right, 0, dst=rows)
    scale = 256 / 255
    # OpenCV rounds to the nearest, therefore half a grey level less; of what is then below 0 it makes 0.
    cv2.addWeighted(rows[:-1], (1 - down) * scale, rows[1:], down * scale, -0.5, dst=mixed)
    cv2.convertScaleAbs(mixed, dst=out)
    columns = shift.last_columns if right else ()
    rows_between = shift.last_rows if down else ()
    for column in columns:
        _paint_line(pixels[:, column], pixels[:, column + 1], right, down, out[:, column])
    for row in rows_between:  # the same with the axes exchanged
        _paint_line(pixels[row], pixels[row + 1], down, right, out[row])
    for row in rows_between if columns else ():
        for column in columns:
            out[row, column] = _corner(pixels[row : row + 2, column : column + 2].tolist(), right, down)


def _between(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Room for the pixels as floats, for their rows mixed, and for both mixed."""
    known: tuple[NDArray[np.float32], ...] | None = getattr(_own, "room", None)
    if known is None or known[-1].shape[:2] != (height, width):
        shapes = ((height + 1, width + 1, 3), (height + 1, width, 3), (height, width, 3))
        known = tuple(np.empty(shape, dtype=np.float32) for shape in shapes)
        _own.room = known if height * width <= _KEPT_PX else None
    whole, rows, mixed = known
    return whole, rows, mixed


def _paint_line(near: RGBImage, far: RGBImage, across: float, along: float, out: RGBImage) -> None:
    """One line between two tiles, of which `far` is painted first.

    By few calls of OpenCV: numpy would need twenty, and each hands Python to another thread and waits to get it back.

    Args:
        near: the line's own pixels, uint8 (n + 1, 3).
        far: those of the next line, which lies in the other tile.
        across: share of a pixel that `far` covers, 0 to 1.
        along: fraction of a pixel by which the result is moved along the line.
        out: the result, uint8 (n, 3).
    """
    first, covered = _weight(across, 0)
    canvas = _mixed(far, along, first, _FLOOR, cv2.CV_8U)
    second, covered = _weight(1 - across, covered)
    above = _mixed(near, along, second, 0.0, cv2.CV_32F)
    if not 0 < covered < _FULL:
        cv2.addWeighted(canvas, _STEPS, above, 1, _FLOOR, dst=out, dtype=cv2.CV_8U)
        return
    canvas = cv2.addWeighted(canvas, _STEPS, above, 1, _FLOOR, dtype=cv2.CV_8U)
    cv2.convertScaleAbs(canvas, dst=out, alpha=_FULL / covered, beta=_FLOOR)


def _mixed(line: RGBImage, along: float, weight: float, plus: float, depth: int) -> NDArray[Any]:
    near, far = (1 - along) * weight * _STEPS, along * weight * _STEPS
    return cv2.addWeighted(line[:-1], near, line[1:], far, plus, dtype=depth)


def _weight(coverage: float, covered: int) -> tuple[float, int]:
    """How much of the next part of a pixel counts, as cairo's operator SATURATE has it; and what is covered then."""
    weight = coverage * min(1.0, (1 - covered / _FULL) / coverage)
    return weight, _stored(covered / _FULL + weight)


def _corner(square: list[list[list[int]]], right: float, down: float) -> list[int]:
    """The pixel (3,) where four tiles meet; `square` (2, 2, 3) holds the nearest pixel of each.

    Three numbers: Python alone is faster than numpy.
    """
    parts = [
        (square[1][1], right * down),
        (square[1][0], (1 - right) * down),
        (square[0][1], right * (1 - down)),
        (square[0][0], (1 - right) * (1 - down)),
    ]
    canvas, covered = [0, 0, 0], 0
    for colour, coverage in parts:
        weight, covered = _weight(coverage, covered)
        canvas = [_stored(was / _FULL + new / _FULL * weight) for was, new in zip(canvas, colour, strict=True)]
    if 0 < covered < _FULL:  # openslide-python takes the coverage out again
        canvas = [min(_FULL, int(value * _FULL / covered)) for value in canvas]
    return canvas


def _stored(value: float) -> int:
    """A number from 0 to 1 as 8 bits hold it."""
    return min(_FULL, int(value * 256))
