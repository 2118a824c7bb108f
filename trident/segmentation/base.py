"""What every tissue segmenter gives, and the mask that it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trident.slides.base import Slide

Progress = Callable[[int, int], None]
"""Called with (parts of the slide done, their total)."""


@dataclass(frozen=True)
class TissueMask:
    """Where a whole slide has tissue, on a coarse raster."""

    mask: NDArray[np.bool_]
    """(height, width), True on tissue; covers the slide from (0, 0) on."""
    downsample_x: float
    """Level-0 pixels per mask pixel, across."""
    downsample_y: float
    """Level-0 pixels per mask pixel, down."""

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ValueError(f"a tissue mask is a bool array (height, width), not {self.mask.dtype} {self.mask.shape}")


class Segmenter(ABC):
    """Finds the tissue of a slide. One instance serves many slides; a neural one holds its model on its device."""

    name: str
    """As given to `--segmenter`."""
    target_magnification: float
    """Magnification at which the slide is looked at."""

    @property
    def target_mag(self) -> float:
        """`target_magnification` under its familiar name."""
        return self.target_magnification

    @abstractmethod
    def segment(self, slide: Slide, progress: Progress | None = None) -> TissueMask:
        """The tissue mask of the whole slide.

        Raises:
            MissingMppError: the slide's resolution is unknown.
            UnreadableSlideError: a region does not decode.
        """

    @abstractmethod
    def recipe_settings(self) -> dict[str, str | int | float | bool | None]:
        """What shapes the mask (name, magnification, threshold, weights' digest), for the recipe of the output."""

    def recipe_facts(self) -> dict[str, str]:
        """What else is told of how the mask was made, such as the device; it is not compared."""
        return {}
