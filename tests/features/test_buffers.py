"""Memory that one slide leaves for the next."""

from __future__ import annotations

import threading

import pytest
import torch

from trident.features.buffers import BufferPool


def test_memory_is_used_again_whatever_shape_and_type() -> None:
    pool = BufferPool()
    first = pool.take((4, 8, 8, 3), torch.uint8)
    where = first.data_ptr()
    pool.give_back([first])
    second = pool.take((2, 3, 4, 8), torch.float32)
    assert (second.shape, second.dtype, second.is_contiguous()) == ((2, 3, 4, 8), torch.float32, True)
    assert second.data_ptr() == where
    second.fill_(1.5)
    assert float(second.sum()) == 1.5 * 2 * 3 * 4 * 8
    pool.give_back([second])
    assert pool.take((4 * 8 * 8 * 3,), torch.uint8).data_ptr() == where, "the whole memory comes back, not its window"


def test_nothing_is_lent_twice() -> None:
    pool = BufferPool()
    pool.give_back([pool.take((100,), torch.uint8) for _ in range(3)])
    lent = [pool.take((100,), torch.uint8) for _ in range(5)]
    assert len({tensor.data_ptr() for tensor in lent}) == 5


def test_the_smallest_that_is_large_enough() -> None:
    pool = BufferPool()
    small, middle, large = (pool.take((n_bytes,), torch.uint8) for n_bytes in (100, 200, 300))
    pool.give_back([large, small, middle])
    assert pool.take((150,), torch.uint8).data_ptr() == middle.data_ptr()
    assert pool.take((150,), torch.uint8).data_ptr() == large.data_ptr()
    assert pool.take((50,), torch.uint8).data_ptr() == small.data_ptr()


def test_what_has_become_too_small_goes() -> None:
    pool = BufferPool()
    pool.give_back([pool.take((100,), torch.uint8), pool.take((110,), torch.uint8)])
    pool.give_back([pool.take((200,), torch.uint8)])
    assert pool.kept_bytes == 100 + 200


@pytest.mark.parametrize(("sizes", "kept"), [([400, 300], 700), ([400, 300, 500], 900), ([1200], 0), ([], 0)])
def test_no_more_is_kept_than_allowed(sizes: list[int], kept: int) -> None:
    pool = BufferPool(max_bytes=1000)
    pool.give_back([pool.take((size,), torch.uint8) for size in sizes])
    assert pool.kept_bytes == kept


def test_from_several_threads() -> None:
    pool = BufferPool()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            mine = [pool.take((number + 1, 50), torch.uint8).fill_(number) for _ in range(2)]
            if any(bool((tensor != number).any()) for tensor in mine):
                wrong.append(number)
            pool.give_back(mine)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
