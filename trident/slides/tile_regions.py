"""Square regions of one level, put together from tiles that are decoded once for all regions that touch them."""

from __future__ import annotations

import math
import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trident.slides.base import RGBImage
from trident.slides.subpixel import Shift, shifted
from trident.slides.tile_cache import TileCache

MAX_CACHE_BYTES = 256 << 20
"""Most memory for decoded tiles that wait for the next row of patches."""

_CAIRO_STEPS = 1 << 16


class Tiles(Protocol):
    """The tiles of one pyramid level; see `JpegTiles`."""

    size: tuple[int, int]
    tile_size: tuple[int, int]
    tiles_across: int
    tiles_down: int

    read_s: float

    def decode(self, index: int, out: RGBImage) -> bool:
        """Whether the tile decoded into `out`."""


class TileRegions:
    """Reads regions that were all announced beforehand. Safe to use from several threads at once.

    Regions that lie near each other are best read at about the same time: a tile is kept only while others need it.

    Args:
        tiles: the level's tiles.
        downsample: level-0 pixels per pixel of the level.
        side_px: side of every region in pixels of the level.
        corners: int (N, 2), (x, y) of each region's top-left corner in level-0 pixels.
        max_cache_bytes: most memory for decoded tiles between two uses.
    """

    def __init__(
        self,
        tiles: Tiles,
        downsample: float,
        side_px: int,
        corners: NDArray[np.int64],
        *,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self._tiles = tiles
        self._side_px = side_px
        # Cairo keeps positions to 16 binary places.
        self._corners = np.round(np.asarray(corners) / downsample * _CAIRO_STEPS) / _CAIRO_STEPS
        self._scratch = threading.local()
        width_px, height_px = tiles.tile_size
        self.cache = TileCache(tiles.decode, (height_px, width_px, 3), self.uses(), max_cache_bytes)

    @property
    def read_s(self) -> float:
        """See `AnnouncedRegions.read_s`."""
        return self._tiles.read_s

    def read(self, index: int, out: RGBImage) -> bool:
        """Read one region.

        Args:
            index: its number in `corners`; each is expected once.
            out: uint8 (side_px, side_px, 3), contiguous; black beyond the slide.

        Returns:
            False where OpenSlide must read it: a tile is damaged or absent, there is no memory for it, or the region
            reaches over the slide's edge at a fraction of a pixel. `out` then holds anything.
        """
        try:
            return self._read(index, out)
        except MemoryError:
            return False  # one region alone takes less, and says so where that is too much as well

    def _read(self, index: int, out: RGBImage) -> bool:
        x, y = (float(value) for value in self._corners[index])
        left, top = math.floor(x), math.floor(y)
        right, down = x - left, y - top
        if not (right or down):
            return self._copy(left, top, out)
        side_px = self._side_px
        if left < 0 or top < 0 or left + side_px >= self._tiles.size[0] or top + side_px >= self._tiles.size[1]:
            self._skip(left, top, side_px + 1)
            return False
        whole = self._scratch_image(side_px + 1)
        if not self._copy(left, top, whole):
            return False
        tile_width_px, tile_height_px = self._tiles.tile_size
        last_columns = range(-(left + 1) % tile_width_px, side_px, tile_width_px)
        last_rows = range(-(top + 1) % tile_height_px, side_px, tile_height_px)
        shifted(whole, Shift(right, down, tuple(last_columns), tuple(last_rows)), out)
        return True

    def _copy(self, left: int, top: int, out: RGBImage) -> bool:
        """The level's own pixels from (left, top) on."""
        side_px = out.shape[0]
        width_px, height_px = self._tiles.size
        tile_width_px, tile_height_px = self._tiles.tile_size
        first_x, first_y = max(left, 0), max(top, 0)
        last_x, last_y = min(left + side_px, width_px), min(top + side_px, height_px)
        if first_x > left or first_y > top or last_x < left + side_px or last_y < top + side_px:
            out[:] = 0
        is_sound = True
        for row, column in self._tiles_under(left, top, side_px):
            index = row * self._tiles.tiles_across + column
            tile = self.cache.borrow(index)
            tile_x, tile_y = column * tile_width_px, row * tile_height_px
            from_x, from_y = max(first_x, tile_x), max(first_y, tile_y)
            to_x, to_y = min(last_x, tile_x + tile_width_px), min(last_y, tile_y + tile_height_px)
            # A tile at the slide's edge has pixels beyond it, which may be all that lies under the region.
            if tile.is_sound and is_sound and from_x < to_x and from_y < to_y:
                part = tile.pixels[from_y - tile_y : to_y - tile_y, from_x - tile_x : to_x - tile_x]
                out[from_y - top : to_y - top, from_x - left : to_x - left] = part
            is_sound = is_sound and bool(tile.is_sound)
            self.cache.give_back(index, tile)
        return is_sound

    def _skip(self, left: int, top: int, side_px: int) -> None:
        for row, column in self._tiles_under(left, top, side_px):
            self.cache.skip(row * self._tiles.tiles_across + column)

    def _tiles_under(self, left: int, top: int, side_px: int) -> list[tuple[int, int]]:
        """(row, column) of the tiles under a square."""
        width_px, height_px = self._tiles.tile_size
        rows = range(max(top // height_px, 0), min((top + side_px - 1) // height_px + 1, self._tiles.tiles_down))
        columns = range(max(left // width_px, 0), min((left + side_px - 1) // width_px + 1, self._tiles.tiles_across))
        return [(row, column) for row in rows for column in columns]

    def uses(self) -> NDArray[np.int64]:
        """For each tile, how many regions touch it."""
        across, down = self._tiles.tiles_across, self._tiles.tiles_down
        whole = np.floor(self._corners).astype(np.int64)
        reach_px = self._side_px + (whole != self._corners).any(axis=1, keepdims=True)
        tile_size = np.array(self._tiles.tile_size)
        limits = np.array([across, down])
        first = np.clip(whole // tile_size, 0, limits)
        last = np.clip((whole + reach_px - 1) // tile_size + 1, 0, limits)
        # +1 and -1 at the corners of each rectangle of tiles; running sums fill it.
        changes = np.zeros((down + 1, across + 1), dtype=np.int64)
        np.add.at(changes, (first[:, 1], first[:, 0]), 1)
        np.add.at(changes, (last[:, 1], last[:, 0]), 1)
        np.add.at(changes, (first[:, 1], last[:, 0]), -1)
        np.add.at(changes, (last[:, 1], first[:, 0]), -1)
        return np.ascontiguousarray(changes.cumsum(axis=0).cumsum(axis=1)[:down, :across]).reshape(-1)

    def _scratch_image(self, side_px: int) -> RGBImage:
        """A buffer of this thread's own."""
        image: RGBImage | None = getattr(self._scratch, "image", None)
        if image is None or image.shape[0] != side_px:
            image = self._scratch.image = np.empty((side_px, side_px, 3), dtype=np.uint8)
        return image
