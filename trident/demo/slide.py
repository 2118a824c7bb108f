"""Draws the demonstration slide: synthetic H&E tissue, pen marks and glass, as an Aperio-style pyramid.

The same seed and size give the same file, so tests use it as a slide whose making is known.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trident.demo.svs import write_svs
from trident.demo.tissue import DyeMaps, draw_tissue, noise
from trident.errors import SettingsError

MIN_SIDE_PX = 256
MAX_SIDE_PX = 16_384
"""Everything is drawn in memory, at about 60 bytes a pixel."""

_HAEMATOXYLIN_OD = (0.66, 0.76, 0.30)
_EOSIN_OD = (0.13, 0.80, 0.36)
"""Optical density per unit of dye in red, green and blue."""
_GLASS_RGB = (244, 243, 241)

_Point = tuple[float, float]
_PEN_STROKES: tuple[tuple[tuple[int, int, int], tuple[_Point, ...]], ...] = (
    ((28, 120, 62), ((0.04, 0.045), (0.09, 0.035), (0.15, 0.045), (0.21, 0.03), (0.27, 0.045))),
    ((36, 52, 150), ((0.93, 0.08), (0.95, 0.15), (0.935, 0.22), (0.955, 0.29), (0.94, 0.36))),
    ((30, 29, 33), ((0.62, 0.93), (0.66, 0.965), (0.70, 0.935), (0.74, 0.97), (0.80, 0.945))),
)
"""Ink colour (RGB) and path, as fractions of width and height, clear of every tissue piece."""


def draw_demo_slide(
    path: Path | str, *, seed: int = 0, width_px: int = 4096, height_px: int = 3072, mpp: float = 0.25
) -> None:
    """Draw a synthetic H&E slide and write it as an Aperio-style SVS with levels 1, 4 and 16.

    Args:
        path: file to write; OpenSlide wants the ending `.svs` or `.tif`.
        seed: another seed draws another slide.
        width_px: width of level 0.
        height_px: height of level 0.
        mpp: µm/px of level 0; nuclei and glands keep their size in µm.

    Raises:
        SettingsError: a side is outside 256 to 16,384 px, or `mpp` is outside 0.1 to 2.
        StoreError: the file cannot be written.
    """
    image = render_demo_slide(seed=seed, width_px=width_px, height_px=height_px, mpp=mpp)
    write_svs(Path(path), image, mpp=mpp, magnification=round(10 / mpp, 1))


def render_demo_slide(*, seed: int, width_px: int, height_px: int, mpp: float = 0.25) -> NDArray[np.uint8]:
    """The pixels of `draw_demo_slide`'s level 0 before compression, uint8 RGB, shape (height_px, width_px, 3).

    Raises:
        SettingsError: as `draw_demo_slide`.
    """
    for name, side_px in (("width_px", width_px), ("height_px", height_px)):
        if not MIN_SIDE_PX <= side_px <= MAX_SIDE_PX:
            raise SettingsError(f"the demo slide's {name} is {side_px}; choose {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels")
    if not (math.isfinite(mpp) and 0.1 <= mpp <= 2):
        raise SettingsError(f"the demo slide's mpp is {mpp}; choose 0.1 to 2 µm/px")
    rng = np.random.default_rng(seed)
    dyes = draw_tissue(rng, width_px, height_px, mpp)
    glass = 1 + 0.004 * noise(rng, (height_px, width_px), max(width_px, height_px) / 3)
    grain = 1.4 * rng.standard_normal((height_px, width_px), dtype=np.float32)
    image = _stain(dyes, glass, grain)
    _draw_pen(image, rng)
    _draw_dust(image, rng)
    return image


def _stain(dyes: DyeMaps, glass: NDArray[np.float32], grain: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Light through glass and dyes, by the Beer-Lambert law."""
    image = np.empty((*glass.shape, 3), np.uint8)
    for channel in range(3):
        density = _HAEMATOXYLIN_OD[channel] * dyes.haematoxylin + _EOSIN_OD[channel] * dyes.eosin
        light = _GLASS_RGB[channel] * glass * cv2.exp(-density) + grain
        image[..., channel] = np.clip(light, 0, 255).astype(np.uint8)
    return image


def _draw_pen(image: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Felt-pen strokes with ink that is thicker in places."""
    height_px, width_px = image.shape[:2]
    thickness_px = max(4, round(0.02 * width_px))
    for ink, path in _PEN_STROKES:
        waypoints = np.array(path) * (width_px, height_px)
        places = np.linspace(0, len(path) - 1, 80)
        curve = np.stack([np.interp(places, range(len(path)), waypoints[:, axis]) for axis in (0, 1)], axis=1)
        curve = cv2.GaussianBlur(curve, (1, 15), 0, borderType=cv2.BORDER_REPLICATE)
        stroke = np.zeros((height_px, width_px), np.uint8)
        cv2.polylines(stroke, [np.round(curve).astype(np.int32)], False, 255, thickness_px, cv2.LINE_AA)
        left, top, width, height = cv2.boundingRect(stroke)
        window = np.s_[top : top + height, left : left + width]
        uneven = 0.86 + 0.07 * noise(rng, (height, width), thickness_px / 3)
        cover = (stroke[window].astype(np.float32) / 255 * np.clip(uneven, 0.6, 1))[..., None]
        image[window] = (image[window] * (1 - cover) + np.array(ink, np.float32) * cover).astype(np.uint8)


def _draw_dust(image: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """A few grey specks on the glass or the tissue."""
    height_px, width_px = image.shape[:2]
    for _ in range(max(2, height_px * width_px // 600_000)):
        at = (int(rng.integers(width_px)), int(rng.integers(height_px)))
        axes = (int(rng.integers(2, 7)), int(rng.integers(2, 5)))
        shade = int(rng.integers(110, 190))
        cv2.ellipse(image, at, axes, float(rng.uniform(0, 180)), 0, 360, (shade, shade, shade), -1, cv2.LINE_AA)
