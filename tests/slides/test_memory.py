"""A lack of memory is an error of the slide that it strikes, in one line, whichever reader and whatever the library."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from trident.demo import draw_demo_slide
from trident.errors import SlideMemoryError, UnreadableSlideError
from trident.slides.base import Slide
from trident.slides.memory import shortage_told
from trident.slides.registry import _READERS, open_slide
from trident.slides.tile_regions import TileRegions

_WORDS = "the memory that is left is not enough to {action}; run fewer slides at a time"


def opencv_shortage() -> None:
    """What OpenCV raises: here, on an image that no machine has the memory for."""
    cv2.copyMakeBorder(np.zeros((1, 1), np.uint8), 0, 2**31 - 2, 0, 2**31 - 2, cv2.BORDER_CONSTANT)


def numpy_shortage() -> None:
    np.empty((1 << 60,), np.uint8)


def plain_shortage() -> None:
    raise MemoryError("std::bad_alloc")


@pytest.mark.parametrize("shortage", [opencv_shortage, numpy_shortage, plain_shortage])
def test_every_librarys_lack_of_memory_is_told_alike(shortage: Any) -> None:
    with pytest.raises(SlideMemoryError) as caught, shortage_told(Path("/a/b.svs"), "open it"):
        shortage()
    assert str(caught.value).startswith("/a/b.svs: " + _WORDS.format(action="open it"))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def opencv_bug() -> BaseException:
    with pytest.raises(cv2.error) as caught:
        cv2.cvtColor(np.zeros((1, 1), np.uint8), cv2.COLOR_BGR2GRAY)
    return caught.value


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug"), opencv_bug(), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, shortage_told(Path("a.svs"), "open it"):
        raise error
    assert caught.value is error


def test_it_is_not_taken_for_damage() -> None:
    """Regions that do not decode are counted and may be passed over; those must not be, for which memory was short."""
    assert not issubclass(SlideMemoryError, UnreadableSlideError)


class HungryCucim:
    """What cuCIM does on a file that claims too much."""

    def CuImage(self, path: str) -> None:
        raise MemoryError("std::bad_alloc")


def test_a_slide_that_does_not_fit_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_demo_slide(tmp_path / "a.svs", seed=1, width_px=512, height_px=512)
    monkeypatch.setattr("trident.slides.registry.default_reader_type", lambda path: "cucim")
    monkeypatch.setattr("trident.slides.cucim.import_cucim", HungryCucim)
    with pytest.raises(SlideMemoryError) as caught:
        open_slide(tmp_path / "a.svs")
    assert str(caught.value).startswith(f"{tmp_path / 'a.svs'}: {_WORDS.format(action='open it')}")


@pytest.mark.parametrize("method", ["read_region", "thumbnail"])
@pytest.mark.parametrize("reader_type", sorted(_READERS))
def test_every_reader_tells_it(reader_type: str, method: str) -> None:
    module, class_name = _READERS[reader_type]
    reader: type[Slide] = getattr(importlib.import_module(module), class_name)
    slide = object.__new__(reader)
    slide.path = Path("a.svs")
    # Whatever a reader looks at first: all of it fails.
    failing = type("Failing", (reader,), {"__getattribute__": _fail_but_for_path})
    object.__setattr__(slide, "__class__", failing)
    with pytest.raises(SlideMemoryError, match=r"^a\.svs: the memory that is left is not enough to"):
        getattr(reader, method)(slide, *(((0, 0), 0, (8, 8)) if method == "read_region" else ((8, 8),)))


def _fail_but_for_path(slide: object, name: str) -> Any:
    if name == "path":
        return object.__getattribute__(slide, name)
    raise MemoryError


def test_a_new_reader_tells_it_too() -> None:
    class Hungry(Slide):
        path = Path("new.xyz")

        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
            raise MemoryError

        def thumbnail(self, max_size: tuple[int, int]) -> Any:
            raise MemoryError

        def announce_regions(self, level: int, side_px: int, corners: Any) -> Any:
            raise MemoryError

        def close(self) -> None:
            """Nothing to close."""

    slide = Hungry()
    for action, read in {
        "read a region of it": lambda: slide.read_region((0, 0), level=0, size=(8, 8)),
        "make its thumbnail": lambda: slide.thumbnail((8, 8)),
        "read its regions": lambda: slide.announce_regions(0, 8, np.zeros((1, 2), np.int64)),
    }.items():
        with pytest.raises(SlideMemoryError, match=rf"^new\.xyz: {_WORDS.format(action=action)}"):
            read()


def test_a_region_that_does_not_fit_is_asked_for_alone() -> None:
    class Tiles:
        size, tile_size, tiles_across, tiles_down = (16, 8), (8, 8), 2, 1

        def decode(self, index: int, out: np.ndarray) -> bool:
            if index == 1:
                raise MemoryError
            out[:] = 7
            return True

    regions = TileRegions(Tiles(), 1.0, 8, np.array([(0, 0), (8, 0)], np.int64))
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert [regions.read(index, pixels) for index in (0, 1)] == [True, False]
