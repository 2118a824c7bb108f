"""trident/slides/tile_cache.py: each tile once, no more memory than allowed, nothing lost between threads."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trident.slides.tile_cache import TileCache

SHAPE = (4, 4, 3)
TILE_BYTES = 48


def numbered(index: int, out: np.ndarray) -> bool:
    out[:] = index
    return index != 13


def test_a_tile_lives_from_its_first_use_to_its_last() -> None:
    cache = TileCache(numbered, SHAPE, np.array([2, 1]), 10 * TILE_BYTES)
    first = cache.borrow(0)
    assert first.is_sound
    assert (first.pixels == 0).all()
    cache.give_back(0, first)
    other = cache.borrow(1)
    cache.give_back(1, other)
    assert cache.borrow(0) is first
    assert cache.n_decoded == 2
    cache.give_back(0, first)
    # Nobody needs it any longer: its buffer serves the next one.
    again = cache.borrow(5 % 2)
    assert again is not other
    assert any(again.pixels is tile.pixels for tile in (first, other))


def test_a_tile_that_does_not_decode_says_so_every_time() -> None:
    cache = TileCache(numbered, SHAPE, np.full(20, 2), 10 * TILE_BYTES)
    assert [cache.borrow(13).is_sound for _ in range(2)] == [False, False]
    assert cache.n_decoded == 1


def test_an_error_of_the_decoder_reaches_the_caller_and_leaves_no_pixels() -> None:
    def failing(index: int, out: np.ndarray) -> bool:
        raise MemoryError

    cache = TileCache(failing, SHAPE, np.full(2, 3), 10 * TILE_BYTES)
    with pytest.raises(MemoryError):
        cache.borrow(0)
    assert cache.borrow(0).is_sound is False


def test_memory_is_bounded() -> None:
    cache = TileCache(numbered, SHAPE, np.full(100, 2), 5 * TILE_BYTES)
    buffers = set()
    for index in [*range(100), *range(100)]:
        tile = cache.borrow(index)
        assert (tile.pixels == index).all()
        buffers.add(id(tile.pixels))
        cache.give_back(index, tile)
    assert len(buffers) <= 6
    assert cache.n_decoded > 100  # the price


def test_a_use_that_is_called_off() -> None:
    cache = TileCache(numbered, SHAPE, np.array([2]), 5 * TILE_BYTES)
    first = cache.borrow(0)
    cache.give_back(0, first)
    cache.skip(0)
    assert cache.borrow(0) is not first


def test_threads_share_one_decoding() -> None:
    running = threading.Semaphore(0)

    def slow(index: int, out: np.ndarray) -> bool:
        running.release()
        time.sleep(0.05)
        out[:] = index
        return True

    cache = TileCache(slow, SHAPE, np.full(1, 8), 5 * TILE_BYTES)
    with ThreadPoolExecutor(8) as pool:
        tiles = list(pool.map(cache.borrow, [0] * 8))
    assert len(set(map(id, tiles))) == 1
    assert running._value == 1


def test_many_threads_always_see_their_own_tile() -> None:
    order = [index for index in range(60) for _ in range(20)]
    random.Random(0).shuffle(order)
    cache = TileCache(numbered, SHAPE, np.bincount(order), 7 * TILE_BYTES)

    def look(index: int) -> bool:
        tile = cache.borrow(index)
        time.sleep(0.0001)
        right = bool((tile.pixels == index).all()) and tile.is_sound is (index != 13)
        cache.give_back(index, tile)
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, order))
