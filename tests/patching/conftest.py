"""A slide in memory, whose every pixel a test knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from trident.errors import UnreadableSlideError
from trident.slides.base import RGBImage, Slide


class ArraySlide(Slide):
    """A pyramid of arrays; level k is level 0 with every `downsamples[k]`-th pixel."""

    reader_type = "array"

    def __init__(self, level0: RGBImage, downsamples: Sequence[int] = (1,), mpp: float | None = 0.25) -> None:
        self.levels = [np.ascontiguousarray(level0[::step, ::step]) for step in downsamples]
        self.path, self.name = Path("/slides/array.svs"), "array"
        self.dimensions = (level0.shape[1], level0.shape[0])
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in self.levels)
        self.level_downsamples = tuple(float(step) for step in downsamples)
        self.properties, self.mpp_or_none, self.mpp_source, self.notes = {}, mpp, None, []
        self.undecodable: set[tuple[int, int]] = set()

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        if location in self.undecodable:
            raise UnreadableSlideError(self.path, f"the region at {location} does not decode")
        x, y = (int(value / self.level_downsamples[level]) for value in location)
        source = self.levels[level][y : y + size[1], x : x + size[0]]
        region = np.zeros((size[1], size[0], 3), np.uint8)
        region[: source.shape[0], : source.shape[1]] = source
        return region

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        return self.levels[-1]

    def close(self) -> None:
        self.levels = []


@pytest.fixture
def array_slide() -> Callable[..., ArraySlide]:
    """Makes a slide of an array, or of reproducible noise of a given (width, height)."""

    def make(pixels: RGBImage | tuple[int, int] = (700, 500), **options: object) -> ArraySlide:
        if isinstance(pixels, tuple):
            pixels = np.random.default_rng(1).integers(0, 256, (pixels[1], pixels[0], 3), dtype=np.uint8)
        return ArraySlide(pixels, **options)  # type: ignore[arg-type]

    return make
