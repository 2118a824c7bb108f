"""What living drivers need counts, and what dead ones needed does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trident.staging.cache import SlideCache
from trident.staging.needs import needed_keys


@pytest.fixture
def root(cache: SlideCache) -> Path:
    return cache.prepare()


def test_needs_of_all_drivers_count_together(cache: SlideCache, root: Path) -> None:
    one, other = cache.new_needs(), cache.new_needs()
    assert needed_keys(root) == set()
    for key in ("a" * 16, "b" * 16):
        one.add(key)
    other.add("b" * 16)
    other.add("c" * 16)
    assert needed_keys(root) == {"a" * 16, "b" * 16, "c" * 16}
    one.remove("b" * 16)
    one.remove("never added")
    assert needed_keys(root) == {"a" * 16, "b" * 16, "c" * 16}
    other.remove("b" * 16)
    assert needed_keys(root) == {"a" * 16, "c" * 16}
    one.close()
    one.close()
    assert needed_keys(root) == {"c" * 16}
    assert len(list((root / "needs").iterdir())) == 1


@pytest.mark.parametrize("content", [b"dead\n", b"", b"\xff\xfe", b"x" * 100_000])
def test_what_the_dead_left_is_removed(cache: SlideCache, root: Path, content: bytes) -> None:
    needs = cache.new_needs()
    needs.add("live")
    (root / "needs" / "0123456789abcdef").write_bytes(content)
    assert needed_keys(root) == {"live"}
    assert [path.name for path in (root / "needs").iterdir()] == [needs.path.name]


def test_a_driver_that_dies_while_it_writes(cache: SlideCache, root: Path) -> None:
    child = os.fork()
    if child == 0:
        cache.new_needs().add("dead")
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list((root / "needs").iterdir())) == 1
    assert needed_keys(root) == set()
    assert list((root / "needs").iterdir()) == []
