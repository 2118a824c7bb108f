"""Decoded tiles, each kept until the last patch that needs it has been read."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trident.slides.base import RGBImage


class Tile:
    """One tile, decoded by the first thread that needs it; the others wait for that."""

    def __init__(self, pixels: RGBImage) -> None:
        self.pixels = pixels
        self.is_sound: bool | None = None
        """Whether it decoded; None before it was tried."""
        self.lock = threading.Lock()
        self.users = 0
        self.is_kept = True


class TileCache:
    """Lends decoded tiles to several threads. How often each will be asked for is known beforehand.

    A tile's buffer is used again once nobody needs it. Where more tiles than allowed are waiting for their next use,
    the oldest are dropped, and decoded again if need be.

    Args:
        decode: (number of the tile, buffer) -> whether it decoded into the buffer.
        shape: (height, width, 3) of a tile.
        uses: for each tile, how many times it will be borrowed; changed here.
        max_bytes: most memory for tiles that nobody is reading.
    """

    def __init__(
        self,
        decode: Callable[[int, RGBImage], bool],
        shape: tuple[int, int, int],
        uses: NDArray[np.int64],
        max_bytes: int,
    ) -> None:
        self._decode = decode
        self._shape = shape
        self._uses = uses
        self._max_tiles = max(1, max_bytes // int(np.prod(shape)))
        self._tiles: dict[int, Tile] = {}
        self._free: list[RGBImage] = []
        self._lock = threading.Lock()
        self.n_decoded = 0
        """Tiles decoded so far, those decoded again included."""

    def borrow(self, index: int) -> Tile:
        """The tile, decoded if it can be; to be handed to `give_back`."""
        with self._lock:
            self._uses[index] -= 1
            tile = self._tiles.get(index)
            if tile is None:
                self._make_room()
                pixels = self._free.pop() if self._free else np.empty(self._shape, dtype=np.uint8)
                tile = self._tiles[index] = Tile(pixels)
                self.n_decoded += 1
            tile.users += 1
        with tile.lock:
            if tile.is_sound is None:
                tile.is_sound = False  # also where the next line raises
                tile.is_sound = self._decode(index, tile.pixels)
        return tile

    def give_back(self, index: int, tile: Tile) -> None:
        """Say that a borrowed tile is no longer looked at."""
        with self._lock:
            tile.users -= 1
            if tile.users == 0 and tile.is_kept and self._uses[index] <= 0:
                self._drop(index)
            elif tile.users == 0 and not tile.is_kept:
                self._free.append(tile.pixels)

    def skip(self, index: int) -> None:
        """Say that one of the announced uses will not happen."""
        with self._lock:
            self._uses[index] -= 1
            tile = self._tiles.get(index)
            if tile is not None and tile.users == 0 and self._uses[index] <= 0:
                self._drop(index)

    def _make_room(self) -> None:
        if len(self._tiles) < self._max_tiles:
            return
        oldest = next((index for index, tile in self._tiles.items() if tile.users == 0), None)
        if oldest is not None:
            self._drop(oldest)

    def _drop(self, index: int) -> None:
        tile = self._tiles.pop(index)
        tile.is_kept = False
        self._free.append(tile.pixels)
