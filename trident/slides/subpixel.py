"""OpenSlide's pixels at a position between the pixels of a level, computed from the level's own pixels.

OpenSlide lets cairo paint one tile after the other, from the bottom right to the top left, each moved by the fraction
of a pixel with bilinear interpolation in floating point, onto a canvas of 8 bits. So two things happen:

- Inside a tile a pixel is the weighted mean of its four neighbours, m in 0 to 255, stored as floor(m * 256 / 255).
- Beyond a tile's border there is nothing: in the last column and row of a tile two tiles (at a corner four) each leave
  a part of a pixel, weighted by how much of it they cover, and every part is rounded down by itself.

Found by comparison: about one value in fifty thousand is one grey level off OpenSlide's, none more.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trident.slides.base import RGBImage

_Floats = NDArray[np.float64]


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
        out: the result, uint8 (height, width, 3).
    """
    right, down = shift.right, shift.down
    whole = pixels.astype(np.float32)
    rows = cv2.addWeighted(whole[:, :-1], 1 - right, whole[:, 1:], right, 0)
    scale = 256 / 255
    # OpenCV rounds to the nearest, therefore half a grey level less; of what is then below 0 it makes 0.
    mixed = cv2.addWeighted(rows[:-1], (1 - down) * scale, rows[1:], down * scale, -0.5)
    out[:] = cv2.convertScaleAbs(mixed)
    if right:
        for column in shift.last_columns:
            out[:, column] = _column(pixels[:, column], pixels[:, column + 1], right, down)
    if down:
        for row in shift.last_rows:
            # The same with the axes exchanged.
            out[row] = _column(pixels[row], pixels[row + 1], down, right)
    if right and down:
        for row in shift.last_rows:
            for column in shift.last_columns:
                out[row, column] = _corner(pixels[row : row + 2, column : column + 2], right, down)


def _column(near: RGBImage, far: RGBImage, across: float, along: float) -> RGBImage:
    """One line between two tiles, (n, 3), of which `far` is painted first; `across` is the share that it covers."""
    near_mixed, far_mixed = (line[:-1] * (1 - along) + line[1:] * along for line in (near, far))
    return _painted([(far_mixed, across), (near_mixed, 1 - across)])


def _corner(square: RGBImage, right: float, down: float) -> RGBImage:
    """The pixel (3,) where four tiles meet; `square` (2, 2, 3) holds the nearest pixel of each."""
    colours = square.astype(np.float64)
    return _painted(
        [
            (colours[1, 1], right * down),
            (colours[1, 0], (1 - right) * down),
            (colours[0, 1], right * (1 - down)),
            (colours[0, 0], (1 - right) * (1 - down)),
        ]
    )


def _painted(parts: list[tuple[_Floats, float]]) -> RGBImage:
    """Parts of pixels, (colour 0 to 255, coverage), painted in order as cairo's operator SATURATE does."""
    canvas: _Floats = np.zeros_like(parts[0][0])
    covered = 0.0
    for colour, coverage in parts:
        share = min(1.0, (1 - covered / 255) / coverage)
        canvas = _stored(canvas / 255 + colour / 255 * (coverage * share))
        covered = float(_stored(np.asarray(covered / 255 + coverage * share)))
    if 0 < covered < 255:  # openslide-python takes the coverage out again
        canvas = np.minimum(255.0, np.floor(canvas * 255 / covered))
    return canvas.astype(np.uint8)


def _stored(values: _Floats) -> _Floats:
    """Numbers from 0 to 1 as 8 bits hold them."""
    return np.minimum(255.0, np.floor(values * 256))
