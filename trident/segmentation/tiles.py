"""Where a segmenter's tiles lie, and the mask that their decisions make. Arithmetic only; no slide is read here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trident.patching.grid import PatchGeometry
from trident.segmentation.base import TissueMask
from trident.segmentation.spec import TILE_PX

_MAX_MASK_PX = 100_000_000
"""Pixels of a mask, each one byte; outlines are made from 2,000 rows, so that a finer mask has no use."""


@dataclass(frozen=True)
class TileGrid:
    """Square tiles without overlap over a whole slide, and a raster over the same area.

    A tile is `TILE_PX` pixels wide at the segmenter's magnification. A mask pixel is `reduction` of these wide.
    """

    geometry: PatchGeometry
    reduction: int
    """A power of two, at most `TILE_PX`, so that a tile is a whole number of mask pixels."""

    @classmethod
    def over(
        cls,
        slide_size: tuple[int, int],
        level0_magnification: float,
        magnification: float,
        *,
        max_mask_px: int = _MAX_MASK_PX,
    ) -> TileGrid:
        """The grid of a slide.

        Args:
            slide_size: (width, height) of level 0 in pixels.
            level0_magnification: the slide's.
            magnification: the segmenter's; the tiles of a slide that is coarser are enlarged.
            max_mask_px: a mask with more pixels is made coarser.
        """
        geometry = PatchGeometry(TILE_PX, 0, magnification, level0_magnification, *slide_size)
        grid = cls(geometry, 1)
        while grid.mask_shape[0] * grid.mask_shape[1] > max_mask_px and grid.reduction < TILE_PX:
            grid = cls(geometry, 2 * grid.reduction)
        return grid

    @property
    def level0_per_mask_px(self) -> float:
        """Level-0 pixels per mask pixel."""
        return self.geometry.step_level0_px * self.reduction / TILE_PX

    @property
    def mask_shape(self) -> tuple[int, int]:
        """(height, width) of the raster; its last row and column may reach beyond the slide."""
        height_px, width_px = self.geometry.level0_height_px, self.geometry.level0_width_px
        step = self.geometry.step_level0_px * self.reduction
        return -(-height_px * TILE_PX // step), -(-width_px * TILE_PX // step)

    def empty_mask(self) -> NDArray[np.bool_]:
        """A raster without tissue."""
        return np.zeros(self.mask_shape, np.bool_)

    def window(self, corner: NDArray[np.int64]) -> tuple[slice, slice]:
        """(rows, columns) of a raster that the tile at `corner`, (x, y) in level-0 pixels, covers."""
        side_px = TILE_PX // self.reduction
        column, row = (int(value) // self.geometry.step_level0_px * side_px for value in corner)
        return slice(row, row + side_px), slice(column, column + side_px)

    def paste(self, mask: NDArray[np.bool_], corner: NDArray[np.int64], decision: NDArray[np.bool_]) -> None:
        """Write a tile's decision, (TILE_PX, TILE_PX), into the raster; what lies beyond the raster is left out.

        A mask pixel is set where at least half of the tile's pixels under it are.
        """
        if self.reduction > 1:
            side_px = TILE_PX // self.reduction
            blocks = decision.reshape(side_px, self.reduction, side_px, self.reduction)
            decision = blocks.mean(axis=(1, 3)) >= 0.5
        target = mask[self.window(corner)]
        target[:] = decision[: target.shape[0], : target.shape[1]]

    def with_any(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Corners (N, 2) of the tiles under which the raster has a pixel set, row by row."""
        corners = self.geometry.corners()
        kept = np.array([mask[self.window(corner)].any() for corner in corners], np.bool_)
        return corners[kept]

    def tissue_mask(self, mask: NDArray[np.bool_]) -> TissueMask:
        """The raster with its place on the slide."""
        return TissueMask(mask, self.level0_per_mask_px, self.level0_per_mask_px)
