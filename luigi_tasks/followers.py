"""Who wants to know, while a run goes on, what its tasks do: the display, the cache of slides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from trident.stages.base import StageResult


class Follower(Protocol):
    """Is told about each stage of each slide, from any thread."""

    def begin(self, slide: str, kind: str, lane: str) -> None:
        """A stage begins on a device."""

    def advance(self, slide: str, kind: str, done: int, total: int) -> None:
        """A stage has done so many of its patches or tiles."""

    def end(self, slide: str, kind: str, result: StageResult | None) -> None:
        """A stage ended, with a result or, where it failed, without."""

    def postponed(self, slide: str, kind: str) -> None:
        """A stage is at work in another run; it is looked at again later."""


_followers: list[Follower] = []


@contextmanager
def followed(follower: Follower) -> Iterator[None]:
    """Have the tasks of this process tell `follower` what they do while the block lasts."""
    _followers.append(follower)
    try:
        yield
    finally:
        _followers.remove(follower)


def followers() -> tuple[Follower, ...]:
    """All who follow the run that goes on in this process."""
    return tuple(_followers)
