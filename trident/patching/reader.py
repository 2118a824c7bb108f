"""Pixels of patches: regions of the slide, resized to the patch size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trident.patching.grid import ReadPlan
from trident.slides.base import RGBImage, Slide


class PatchReader:
    """Reads patches of one slide; holds no state of its own, so it is as safe with threads as its slide."""

    def __init__(self, slide: Slide, plan: ReadPlan) -> None:
        self.slide = slide
        self.plan = plan

    def read(self, x: int, y: int) -> RGBImage:
        """The patch whose top-left corner is (x, y) in level-0 pixels.

        Returns:
            uint8 (patch_size_px, patch_size_px, 3), RGB; black beyond the slide.

        Raises:
            UnreadableSlideError: the region does not decode.
        """
        region = self.read_raw(x, y)
        side_px = self.plan.patch_size_px
        if region.shape[:2] == (side_px, side_px):
            return region
        resized = Image.fromarray(region).resize((side_px, side_px), Image.Resampling.BICUBIC)
        return np.array(resized, dtype=np.uint8)  # a copy, since the view of a PIL image cannot be written to

    def read_raw(self, x: int, y: int) -> RGBImage:
        """The same region before it is resized, uint8 (read_px, read_px, 3)."""
        side_px = self.plan.read_px
        return self.slide.read_region((int(x), int(y)), self.plan.level, (side_px, side_px))

    def announce(self, coords: NDArray[np.int64]) -> PatchRegions:
        """Prepare to read the regions of many patches, each once and roughly in order: faster than one by one.

        Args:
            coords: int (N, 2), x and y of each patch's corner in level-0 pixels.
        """
        return PatchRegions(self, coords)


class PatchRegions:
    """The regions of patches that were announced, not yet resized. Safe to read from several threads at once."""

    def __init__(self, reader: PatchReader, coords: NDArray[np.int64]) -> None:
        self.plan = reader.plan
        self._reader = reader
        self._coords = np.asarray(coords, dtype=np.int64)
        self._announced = reader.slide.announce_regions(self.plan.level, self.plan.read_px, self._coords)

    @property
    def read_s(self) -> float:
        """See `AnnouncedRegions.read_s`; 0 where a library reads and decodes at once."""
        return 0.0 if self._announced is None else self._announced.read_s

    def read_into(self, index: int, out: RGBImage) -> None:
        """Read the region of patch `index` into `out`, uint8 (read_px, read_px, 3), contiguous.

        Raises:
            UnreadableSlideError: the region does not decode.
        """
        if self._announced is None or not self._announced.read(index, out):
            x, y = self._coords[index]
            out[:] = self._reader.read_raw(x, y)
