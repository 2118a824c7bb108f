"""Pixels of a segmenter's tile, read in blocks where the tile covers so much of a level that it must not be held whole.

At 1x a tile of 512 px covers 20,480 level-0 pixels of a slide scanned at 40x: over a gigabyte where the file has no
coarser level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trident.patching.grid import ReadPlan
from trident.patching.reader import PatchReader
from trident.slides.base import RGBImage, Slide

_MAX_READ_PX = 2400
"""Side of the largest square that is read at once: 17 MB, of which readers need a few times as much."""
_SUPPORT_PX = 2
"""Half the width of the bicubic filter, in pixels of the result."""


@dataclass(frozen=True)
class _Span:
    """A block's extent along one axis of the tile."""

    out_start_px: int
    out_stop_px: int
    """In the resized tile."""
    start_px: int
    stop_px: int
    """What is read of the level, with a margin for the filter."""
    box_start_px: float
    box_stop_px: float
    """What the result shows of that."""


class TileReader:
    """Reads tiles as `PatchReader` does, pixel for pixel, with memory bounded whatever the file's pyramid.

    `source` is for the feature loop: the `PatchReader` itself, whose tiles are read together, where they are not large.
    """

    def __init__(self, slide: Slide, plan: ReadPlan, *, max_read_px: int = _MAX_READ_PX) -> None:
        self.slide = slide
        self.plan = plan
        self.in_blocks = plan.read_px > max(max_read_px, plan.patch_size_px)
        self._whole = PatchReader(slide, plan)
        self.source: PatchReader | Callable[[int, int], RGBImage] = self.read if self.in_blocks else self._whole
        self._spans = list(_spans(plan.read_px, plan.patch_size_px, max_read_px)) if self.in_blocks else []

    def read(self, x: int, y: int) -> RGBImage:
        """The tile whose top-left corner is (x, y) in level-0 pixels: uint8 (patch_size_px, patch_size_px, 3), RGB.

        Raises:
            UnreadableSlideError: a part of it does not decode.
        """
        if not self.in_blocks:
            return self._whole.read(x, y)
        side_px = self.plan.patch_size_px
        tile = np.zeros((side_px, side_px, 3), np.uint8)
        for down in self._spans:
            for across in self._spans:
                block = self._read_block(x, y, across, down)
                if block is not None:
                    tile[down.out_start_px : down.out_stop_px, across.out_start_px : across.out_stop_px] = block
        return tile

    def _read_block(self, x: int, y: int, across: _Span, down: _Span) -> RGBImage | None:
        """A part of the result, or None where it lies beyond the slide, which is black."""
        downsample = self.slide.level_downsamples[self.plan.level]
        location = (x + round(across.start_px * downsample), y + round(down.start_px * downsample))
        if location[0] >= self.slide.dimensions[0] or location[1] >= self.slide.dimensions[1]:
            return None
        size = (across.stop_px - across.start_px, down.stop_px - down.start_px)
        pixels = self.slide.read_region(location, self.plan.level, size)
        return _resize_part(pixels, across, down)


def _resize_part(pixels: RGBImage, across: _Span, down: _Span) -> RGBImage:
    """What a whole tile's resize gives for one block of it.

    Pillow rounds between its two passes and, for an oblong, may begin with the other one: so one call for each pass.
    """
    bicubic = Image.Resampling.BICUBIC
    height_px = pixels.shape[0]
    width_out_px, height_out_px = across.out_stop_px - across.out_start_px, down.out_stop_px - down.out_start_px
    narrowed = Image.fromarray(pixels).resize(
        (width_out_px, height_px), bicubic, box=(across.box_start_px, 0, across.box_stop_px, height_px)
    )
    return np.asarray(
        narrowed.resize(
            (width_out_px, height_out_px), bicubic, box=(0, down.box_start_px, width_out_px, down.box_stop_px)
        )
    )


def _spans(read_px: int, out_px: int, max_read_px: int) -> Iterator[_Span]:
    """Blocks along one axis; all are read no larger than `max_read_px`, unless one pixel of the result needs more."""
    scale = read_px / out_px
    margin_px = math.ceil(_SUPPORT_PX * scale) + 1
    step = max(1, int((max_read_px - 2 * margin_px - 2) / scale))
    for out_start in range(0, out_px, step):
        out_stop = min(out_px, out_start + step)
        start = max(0, math.floor(out_start * scale) - margin_px)
        stop = min(read_px, math.ceil(out_stop * scale) + margin_px)
        yield _Span(out_start, out_stop, start, stop, out_start * scale - start, out_stop * scale - start)
