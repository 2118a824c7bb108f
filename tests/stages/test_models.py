"""trident/stages/models.py: how many models are kept, and which goes when another is needed."""

from __future__ import annotations

import threading
import time

import pytest

from trident.stages.models import _Loaded


@pytest.fixture
def loads() -> list[str]:
    return []


@pytest.fixture
def loader(loads: list[str]) -> _Loaded[object]:
    def load(name: str) -> object:
        time.sleep(0.01)
        loads.append(name)
        if name == "broken":
            raise ValueError(name)
        return object()

    return _Loaded(load)


def test_one_model_is_kept_by_default(loader: _Loaded[object], loads: list[str]) -> None:
    first = loader("a")
    assert loader("a") is first
    loader("b")
    assert loader("a") is not first
    assert loads == ["a", "b", "a"]


def test_as_many_are_kept_as_the_job_needs_together(loader: _Loaded[object], loads: list[str]) -> None:
    for _ in range(3):
        for name in "abc":
            loader(name, at_once=3)
    assert loads == ["a", "b", "c"]
    loader("a", at_once=3)
    loader("d", at_once=3)  # in the place of the one that was used longest ago
    loader("a", at_once=3)
    loader("c", at_once=3)
    assert loads == ["a", "b", "c", "d"]
    loader("e")  # another job, with one encoder: nothing else is kept
    loader("a")
    assert loads == ["a", "b", "c", "d", "e", "a"]


def test_release_and_failure_keep_nothing(loader: _Loaded[object], loads: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            loader("broken")
    loader("a")
    loader.release()
    loader("a")
    assert loads == ["broken", "broken", "a", "a"]


def test_of_two_threads_one_loads(loader: _Loaded[object], loads: list[str]) -> None:
    threads = [threading.Thread(target=loader, args=("a",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["a"]
