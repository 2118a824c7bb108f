"""A slide in memory whose levels are area-averaged, as scanners make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from trident.slides.base import RGBImage, Slide


class PyramidSlide(Slide):
    """Remembers what was read from it."""

    reader_type = "array"

    def __init__(self, level0: RGBImage, downsamples: Sequence[int] = (1,), mpp: float | None = 0.25) -> None:
        height, width = level0.shape[:2]
        self.levels = [
            cv2.resize(level0, (width // step, height // step), interpolation=cv2.INTER_AREA) for step in downsamples
        ]
        self.path, self.name, self.dimensions = Path("/slides/array.svs"), "array", (width, height)
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in self.levels)
        self.level_downsamples = tuple(width / level.shape[1] for level in self.levels)
        self.properties, self.mpp_or_none, self.mpp_source, self.notes = {}, mpp, None, []
        self.reads: list[tuple[int, int, int]] = []

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        self.reads.append((level, *size))
        x, y = (round(value / self.level_downsamples[level]) for value in location)
        source = self.levels[level][y : y + size[1], x : x + size[0]]
        region = np.zeros((size[1], size[0], 3), np.uint8)
        region[: source.shape[0], : source.shape[1]] = source
        return region

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        return self.levels[-1]

    def close(self) -> None:
        self.levels = []


@pytest.fixture
def pyramid_slide() -> Callable[..., PyramidSlide]:
    return PyramidSlide


@pytest.fixture(scope="session")
def make_segmenter() -> Callable[..., object]:
    """Function (spec, **options): a `NeuralSegmenter` whose network tells classes by the red of each pixel alone.

    Class k of n is the k-th of n equal ranges of red. The network's attribute `batches` lists the batch sizes it saw.
    """
    import torch
    from torch import nn

    from trident.segmentation.neural import NeuralSegmenter
    from trident.segmentation.spec import TILE_MEAN, TILE_STD, SegmentationModelSpec

    class ClassByRed(nn.Module):
        def __init__(self, n_classes: int) -> None:
            super().__init__()
            self.n_classes = n_classes
            self.batches: list[int] = []

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.batches.append(len(batch))
            red = ((batch[:, 0] * TILE_STD[0] + TILE_MEAN[0]) * 255).round()
            classes = (red * self.n_classes / 256).floor().long().clamp(0, self.n_classes - 1)
            return 20.0 * nn.functional.one_hot(classes, self.n_classes).permute(0, 3, 1, 2).float()

    def make(spec: SegmentationModelSpec, network: nn.Module | None = None, **options: object) -> NeuralSegmenter:
        return NeuralSegmenter(spec, network or ClassByRed(spec.n_classes), **options)

    return make
