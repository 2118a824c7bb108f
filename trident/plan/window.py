"""A part of a slide that behaves as a slide of its own, so that a segmenter can be timed on little of a large one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trident.slides.base import AnnouncedRegions, RGBImage, Slide


class SlideWindow(Slide):
    """A rectangle of another slide, which stays the owner of the file."""

    reader_type: ClassVar[str] = "window"

    def __init__(self, slide: Slide, corner: tuple[int, int], size: tuple[int, int]) -> None:
        """Args:
        slide: the whole.
        corner: (x, y) of the window's top-left corner in level-0 px.
        size: (width, height) of the window in level-0 px.
        """
        self._slide, self._corner = slide, corner
        self.path, self.name, self.properties = slide.path, slide.name, slide.properties
        self.mpp_or_none, self.mpp_source, self.notes = slide.mpp_or_none, slide.mpp_source, slide.notes
        self.dimensions = size
        self.level_downsamples = slide.level_downsamples
        self.level_dimensions = tuple(
            (max(1, round(size[0] / downsample)), max(1, round(size[1] / downsample)))
            for downsample in slide.level_downsamples
        )

    @classmethod
    def in_the_middle(cls, slide: Slide, side_px: int) -> SlideWindow:
        """A window of at most `side_px` x `side_px` level-0 px around the middle of the slide."""
        width_px, height_px = slide.dimensions
        size = min(width_px, side_px), min(height_px, side_px)
        return cls(slide, ((width_px - size[0]) // 2, (height_px - size[1]) // 2), size)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        """Pixels of the whole slide, also beyond the window's edges."""
        return self._slide.read_region((location[0] + self._corner[0], location[1] + self._corner[1]), level, size)

    def announce_regions(self, level: int, side_px: int, corners: NDArray[np.int64]) -> AnnouncedRegions | None:
        """As the whole slide does."""
        return self._slide.announce_regions(level, side_px, corners + np.array(self._corner))

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        """That of the whole slide."""
        return self._slide.thumbnail(max_size)

    def close(self) -> None:
        """Nothing: the whole slide is its owner's to close."""
