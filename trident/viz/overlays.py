"""Pictures for a first look: tissue outlines and kept patches on the slide's thumbnail."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import Polygon

from trident.slides.base import RGBImage, Slide

THUMBNAIL_SIDE_PX = 1000
"""Longest side of every picture."""

_TISSUE_RGB = (0, 200, 0)
_HOLE_RGB = (230, 0, 0)
_PATCH_RGB = (0, 90, 255)
_PATCH_TINT = 0.22
_MIN_SIDE_WITH_BORDER_PX = 7.0
"""Patches that appear smaller than this are tinted only: borders would hide the tissue."""
_SHIFT = 4
"""OpenCV draws at 1/16 of a pixel."""


_REMEMBERED = 8
"""Thumbnails of the slides worked on last, 3 MB each: the stages of a slide follow each other, and each shows one."""
_remembered: OrderedDict[tuple[object, ...], RGBImage] = OrderedDict()
_remembering = threading.Lock()


def slide_thumbnail(slide: Slide) -> RGBImage:
    """The slide with its longest side at 1000 px, uint8 (height, width, 3); not to be written to."""
    try:
        found = slide.path.stat()
    except OSError:  # a slide that is gone can still be open
        return slide.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
    key = (slide.path, slide.reader_type, found.st_mtime_ns, found.st_size, found.st_ino)
    with _remembering:
        thumbnail = _remembered.get(key)
    if thumbnail is None:
        thumbnail = slide.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
        thumbnail.setflags(write=False)
        with _remembering:
            _remembered[key] = thumbnail
            while len(_remembered) > _REMEMBERED:
                _remembered.popitem(last=False)
    return thumbnail


def draw_tissue(thumbnail: RGBImage, polygons: Sequence[Polygon], slide_size: tuple[int, int]) -> RGBImage:
    """A copy of the thumbnail with tissue outlines in green and holes in red.

    Args:
        thumbnail: the whole slide, uint8 (height, width, 3).
        polygons: in level-0 pixels.
        slide_size: (width, height) of level 0.
    """
    picture = np.ascontiguousarray(thumbnail).copy()
    scale = _scale(thumbnail, slide_size)
    thickness_px = max(1, round(max(picture.shape[:2]) / 400))
    for rings, colour in (
        ([polygon.exterior for polygon in polygons], _TISSUE_RGB),
        ([hole for polygon in polygons for hole in polygon.interiors], _HOLE_RGB),
    ):
        lines = [_fixed_point(np.asarray(ring.coords)[:, :2] * scale) for ring in rings]
        cv2.polylines(picture, lines, True, colour, thickness_px, cv2.LINE_AA, _SHIFT)
    return picture


def draw_patches(
    thumbnail: RGBImage,
    coords: NDArray[np.int64],
    side_level0_px: int,
    slide_size: tuple[int, int],
    count: int | None = None,
) -> RGBImage:
    """A copy of the thumbnail with the kept patches tinted and framed, and their count written in a corner.

    Args:
        thumbnail: the whole slide, uint8 (height, width, 3).
        coords: top-left corners (x, y) in level-0 pixels, (N, 2).
        side_level0_px: side of a patch in level-0 pixels.
        slide_size: (width, height) of level 0.
        count: number to write; that of `coords` by default.
    """
    picture = np.ascontiguousarray(thumbnail).copy()
    scale = _scale(thumbnail, slide_size)
    top_left = np.asarray(coords, np.float64).reshape(-1, 2) * scale
    side_px = side_level0_px * scale

    covered = np.zeros(picture.shape[:2], np.uint8)
    # At least a pixel each, so that patches far smaller than a thumbnail's pixel still show.
    first = np.floor(top_left).astype(np.int64)
    last = np.maximum(first, np.ceil(top_left + side_px).astype(np.int64) - 1)
    for (x0, y0), (x1, y1) in zip(first.tolist(), last.tolist(), strict=True):
        cv2.rectangle(covered, (x0, y0), (x1, y1), 255, cv2.FILLED)
    tinted = cv2.addWeighted(picture, 1 - _PATCH_TINT, np.full_like(picture, _PATCH_RGB), _PATCH_TINT, 0)
    picture[covered > 0] = tinted[covered > 0]
    if side_px.min() >= _MIN_SIDE_WITH_BORDER_PX:
        # Neighbours share a line: the right and bottom borders fall on the next patch's first pixels.
        far = np.round(top_left + side_px).astype(np.int64)
        for (x0, y0), (x1, y1) in zip(np.round(top_left).astype(np.int64).tolist(), far.tolist(), strict=True):
            cv2.rectangle(picture, (x0, y0), (x1, y1), _PATCH_RGB, 1)
    number = len(top_left) if count is None else count
    _write_label(picture, f"{number:,} patch" + ("" if number == 1 else "es"))
    return picture


def save_jpeg(path: Path, image: RGBImage, *, quality: int = 90) -> None:
    """Write an RGB image as JPEG to exactly this path; the caller makes it atomic."""
    Image.fromarray(image).save(path, format="JPEG", quality=quality)


def _scale(thumbnail: RGBImage, slide_size: tuple[int, int]) -> NDArray[np.float64]:
    """Thumbnail pixels per level-0 pixel, (across, down)."""
    return np.array([thumbnail.shape[1] / slide_size[0], thumbnail.shape[0] / slide_size[1]])


def _fixed_point(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _write_label(picture: RGBImage, text: str) -> None:
    """White on black in the top-left corner, in place; shrunk where the picture is too narrow for it."""
    font, pad_px = cv2.FONT_HERSHEY_SIMPLEX, 8
    (width_px, _), _ = cv2.getTextSize(text, font, 1.0, 2)
    font_scale = min(0.9, max(0.3, (picture.shape[1] - 2 * pad_px) / width_px))
    thickness_px = 2 if font_scale > 0.6 else 1
    (width_px, height_px), baseline_px = cv2.getTextSize(text, font, font_scale, thickness_px)
    cv2.rectangle(picture, (0, 0), (width_px + 2 * pad_px, height_px + baseline_px + pad_px), (0, 0, 0), cv2.FILLED)
    origin = (pad_px, height_px + pad_px // 2 + 2)
    cv2.putText(picture, text, origin, font, font_scale, (255, 255, 255), thickness_px, cv2.LINE_AA)
