"""What readers share whose library gives nothing but whole pixels of a level: OME-Zarr, CZI, SDPC."""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from trident.errors import UnreadableSlideError
from trident.slides.base import RGBImage, Slide
from trident.slides.limits import require_size
from trident.slides.metadata import resolve_resolution
from trident.slides.registry import slide_name
from trident.slides.subpixel import Shift, shifted
from trident.slides.thumbnail import fitted_size, shrink_in_bands

THUMBNAIL_AT_ONCE_PX = 1 << 24
"""A level of more pixels than this is shrunk in bands, so that a slide without a pyramid does not fill the memory."""

_CAIRO_STEPS = 1 << 16
"""Positions between pixels are kept to 16 binary places, as OpenSlide's are."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of one level, inside it and not empty."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Facts:
    """What a reader has found out about its file."""

    level_sizes: Sequence[tuple[int, int]]
    """(width, height) of each level, finest first."""
    level_downsamples: Sequence[float]
    properties: Mapping[str, str]
    notes: Sequence[str] = ()


class PyramidSlide(Slide):
    """A slide of levels that are read as boxes of whole pixels.

    Regions follow OpenSlide's rules: black beyond the slide, and bilinear interpolation where the corner lies between
    two pixels of the level. There is no seam between tiles in it, other than in OpenSlide's.

    Args:
        path: the slide file or folder.
        handle: the library's object; given back to `_read_box`, and dropped when the slide is closed.
        facts: what the reader has found out about it.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: a level claims to be larger than any slide.
        MissingMppError: `mpp` is given and not a positive finite number.
    """

    def __init__(
        self,
        path: Path,
        handle: Any,
        facts: Facts,
        *,
        mpp: float | None,
        custom_mpp_keys: Sequence[str],
        name: str | None,
    ) -> None:
        self.path = path
        self.name = slide_name(path) if name is None else name
        self.level_dimensions = tuple(facts.level_sizes)
        require_size(path, self.level_dimensions)
        self.dimensions = self.level_dimensions[0]
        self.level_downsamples = tuple(facts.level_downsamples)
        self.properties = dict(facts.properties)
        resolution = resolve_resolution(path, self.properties, mpp, custom_mpp_keys)
        self.mpp_or_none = resolution.mpp
        self.mpp_source = resolution.source
        self.notes = [*facts.notes, *resolution.notes]
        self._lock = threading.Lock()
        self._handle = handle

    @abstractmethod
    def _read_box(self, handle: Any, level: int, box: Box) -> RGBImage:
        """The pixels of a box, uint8 (height, width, 3); called from several threads at once.

        Raises:
            UnreadableSlideError: they do not decode.
        """

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        """See `Slide.read_region`."""
        if not 0 <= level < len(self.level_dimensions):
            raise ValueError(f"{self.path}: level {level} is not one of its {len(self.level_dimensions)} levels")
        if size[0] < 1 or size[1] < 1:
            raise ValueError(f"{self.path}: a region of {size[0]} x {size[1]} px cannot be read")
        handle = self._current()
        downsample = self.level_downsamples[level]
        x, y = (round(side / downsample * _CAIRO_STEPS) / _CAIRO_STEPS for side in location)
        left, top = math.floor(x), math.floor(y)
        if x == left and y == top:
            return self._whole(handle, level, (left, top), size)
        return self._between(handle, level, (x, y), size)

    def _whole(self, handle: Any, level: int, corner: tuple[int, int], size: tuple[int, int]) -> RGBImage:
        """A region that begins at a whole pixel of its level."""
        (left, top), (width_px, height_px) = corner, size
        inside = self._inside(level, corner, size)
        if inside is None:
            return np.zeros((height_px, width_px, 3), dtype=np.uint8)
        pixels = self._read_box(handle, level, inside)
        if (inside.width, inside.height) == (width_px, height_px):
            return np.ascontiguousarray(pixels)
        region = np.zeros((height_px, width_px, 3), dtype=np.uint8)
        rows, columns = _span(inside.top - top, inside.height), _span(inside.left - left, inside.width)
        region[rows, columns] = pixels
        return region

    def _between(self, handle: Any, level: int, place: tuple[float, float], size: tuple[int, int]) -> RGBImage:
        """A region that begins between two pixels of its level."""
        (x, y), (width_px, height_px) = place, size
        left, top = math.floor(x), math.floor(y)
        region = np.zeros((height_px, width_px, 3), dtype=np.uint8)
        inside = self._inside(level, (left, top), (width_px + 1, height_px + 1))
        if inside is None:
            return region
        # A pixel that the slide covers in part has the colour of that part, so the edge goes on beyond the slide.
        before_x, before_y = inside.left - left, inside.top - top
        after_x = width_px + 1 - before_x - inside.width
        after_y = height_px + 1 - before_y - inside.height
        pixels = self._read_box(handle, level, inside)
        framed = cv2.copyMakeBorder(pixels, before_y, after_y, before_x, after_x, cv2.BORDER_REPLICATE)
        shifted(np.asarray(framed, dtype=np.uint8), Shift(x - left, y - top, (), ()), region)
        _blacken_outside(region, before_x - (x > left), inside.left + inside.width - left, axis=1)
        _blacken_outside(region, before_y - (y > top), inside.top + inside.height - top, axis=0)
        return region

    def _inside(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> Box | None:
        """The part of a region that lies in its level, or None."""
        (left, top), (width_px, height_px) = corner, self.level_dimensions[level]
        first_x, first_y = max(left, 0), max(top, 0)
        last_x, last_y = min(left + size[0], width_px), min(top + size[1], height_px)
        if first_x >= last_x or first_y >= last_y:
            return None
        return Box(first_x, first_y, last_x - first_x, last_y - first_y)

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        """See `Slide.thumbnail`; made from the smallest level that is large enough.

        Raises:
            UnreadableSlideError: a part of that level does not decode.
        """
        handle = self._current()
        wanted = max(side / limit for side, limit in zip(self.dimensions, max_size, strict=True))
        level = max((at for at, downsample in enumerate(self.level_downsamples) if downsample <= wanted), default=0)
        width_px, height_px = self.level_dimensions[level]
        if width_px * height_px <= THUMBNAIL_AT_ONCE_PX:
            image = Image.fromarray(self._read_opaque(handle, level, Box(0, 0, width_px, height_px)))
            image.thumbnail(max_size, Image.Resampling.LANCZOS)
            return np.array(image)

        def read_band(top_px: int, rows: int) -> RGBImage:
            return self._read_opaque(handle, level, Box(0, top_px, width_px, rows))

        return shrink_in_bands(read_band, (width_px, height_px), fitted_size(self.dimensions, max_size))

    def _read_opaque(self, handle: Any, level: int, box: Box) -> RGBImage:
        """The box as a person should see it; a reader whose format has gaps paints them white here."""
        return self._read_box(handle, level, box)

    def close(self) -> None:
        """See `Slide.close`. A read that another thread has begun is finished first."""
        # The reference is dropped, not the file closed: that happens when the last read with it is done.
        with self._lock:
            self._handle = None

    def _current(self) -> Any:
        with self._lock:
            if self._handle is None:
                raise UnreadableSlideError(self.path, "the slide was closed before this read; open it again")
            return self._handle


def _span(first: int, length: int) -> slice:
    return slice(first, first + length)


def _blacken_outside(region: RGBImage, first: int, end: int, *, axis: int) -> None:
    """Black out the rows (axis 0) or columns (axis 1) before `first` and from `end` on."""
    lines = region if axis == 0 else region.swapaxes(0, 1)
    lines[: max(first, 0)] = 0
    lines[max(end, 0) :] = 0
