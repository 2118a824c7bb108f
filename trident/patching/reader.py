"""Pixels of one patch: a region of the slide, resized to the patch size."""

from __future__ import annotations

import numpy as np
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
