"""trident/features/threads.py: how many cores torch uses where."""

from __future__ import annotations

import threading

import pytest
import torch

from trident.features.threads import default_workers, single_core_threads


@pytest.mark.parametrize("outside", [1, 2, 3])
def test_one_core_inside_and_as_before_outside(outside: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(outside)
    try:
        with single_core_threads(3, "test-pool") as pool:
            barrier = threading.Barrier(3)

            def look(_: int) -> tuple[str, int]:
                barrier.wait()  # one call in each thread
                return threading.current_thread().name, torch.get_num_threads()

            found = list(pool.map(look, range(3)))
            assert torch.get_num_threads() == outside
        assert [cores for _, cores in found] == [1, 1, 1]
        assert len({name for name, _ in found}) == 3
        assert torch.get_num_threads() == outside
    finally:
        torch.set_num_threads(before)


def test_default_workers() -> None:
    assert 1 <= default_workers() <= 16
