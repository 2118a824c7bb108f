"""Every reader of pyramids gives OpenSlide's raw pixels with alpha left out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest

from trident.slides.base import Slide
from trident.slides.registry import open_slide

REAL = ["CMU-1-Small-Region.svs", "TCGA-CR-7395-no-mpp.svs", "boxes.tiff", "boxes_0.dcm"]
SYNTHETIC = ["jpeg", "jpeg2000", "deflate"]
NOT_FOR_CUCIM = ("boxes.tiff", "boxes_0.dcm", "deflate")
"""That these are refused is tested in test_cucim.py."""


CASES = [
    (reader_type, source)
    for reader_type in ("openslide", "cucim")
    for source in (*REAL, *SYNTHETIC)
    if reader_type == "openslide" or source not in NOT_FOR_CUCIM
]


@pytest.fixture(params=CASES, ids="-".join)
def slide(request: pytest.FixtureRequest) -> Iterator[Slide]:
    reader_type, source = request.param
    if reader_type == "cucim":
        pytest.importorskip("cucim")
    if source in REAL:
        path = Path(request.getfixturevalue("shared_slides")) / source
    else:
        write: Callable[..., Path] = request.getfixturevalue("write_slide")
        path = write(f"{source}.svs", codec=source)
    with open_slide(path, reader_type=reader_type) as opened:
        assert opened.reader_type == reader_type
        yield opened


def raw_pixels(raw: Any, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(raw.read_region(location, level, size))[..., :3]


def agree(slide: Slide, pixels: np.ndarray, expected: np.ndarray) -> bool:
    """Equal bit by bit, but for cuCIM's JPEG 2000: there a value in a hundred thousand may be off by one."""
    if slide.reader_type == "openslide" or not set(slide.path.stem.split("-")) & {"TCGA", "jpeg2000"}:
        return np.array_equal(pixels, expected)
    difference = np.abs(pixels.astype(int) - expected)
    return (
        pixels.shape == expected.shape
        and difference.max() <= 1
        and np.count_nonzero(difference) <= 1 + 1e-5 * pixels.size
    )


def regions(raw: Any) -> list[tuple[tuple[int, int], int, tuple[int, int]]]:
    """Locations inside, over each edge, beyond and at fractions of a pixel, on every level."""
    chance = random.Random(3)
    width, height = raw.dimensions
    found = []
    for level, downsample in enumerate(raw.level_downsamples):
        step = int(downsample)
        for x, y in [
            (0, 0),
            (-37 * step, -11 * step),
            (width - 20 * step, height - 30 * step),
            (width - 7, -9),
            (width + 10, 5),
            (-500 * step, -500 * step),
            (step, 3 * step),
            (1, 2),
            *((chance.randrange(width), chance.randrange(height)) for _ in range(4)),
            *((chance.randrange(width) // step * step, chance.randrange(height) // step * step) for _ in range(4)),
        ]:
            found.append(((x, y), level, (chance.randrange(1, 200), chance.randrange(1, 200))))
    return found


def test_facts(slide: Slide) -> None:
    raw = openslide.OpenSlide(slide.path)
    assert slide.dimensions == raw.dimensions
    assert slide.level_dimensions == raw.level_dimensions
    assert slide.level_downsamples == raw.level_downsamples
    assert dict(slide.properties) == dict(raw.properties)
    assert slide.name == slide.path.stem


def test_pixels(slide: Slide) -> None:
    raw = openslide.OpenSlide(slide.path)
    for location, level, size in regions(raw):
        pixels = slide.read_region(location, level, size)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (size[1], size[0], 3)
        assert pixels.flags.c_contiguous
        assert agree(slide, pixels, raw_pixels(raw, location, level, size)), (location, level, size)


def test_a_region_larger_than_the_slide(slide: Slide) -> None:
    raw = openslide.OpenSlide(slide.path)
    level = len(slide.level_dimensions) - 1
    width, height = slide.level_dimensions[level]
    size = (width + 60, height + 40)
    beyond = slide.read_region((0, 0), level, size)
    assert agree(slide, beyond, raw_pixels(raw, (0, 0), level, size))
    assert not beyond[height:].any()
    assert not beyond[:, width:].any()


def test_eight_threads(slide: Slide) -> None:
    raw = openslide.OpenSlide(slide.path)
    wanted = regions(raw) * 4
    random.Random(1).shuffle(wanted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda region: slide.read_region(*region), wanted))
    expected = {region: raw_pixels(raw, *region) for region in set(wanted)}
    assert all(agree(slide, pixels, expected[region]) for region, pixels in zip(wanted, found, strict=True))


def test_thumbnail(slide: Slide) -> None:
    raw = openslide.OpenSlide(slide.path)
    for max_size in [(100, 100), (1000, 50)]:
        assert np.array_equal(slide.thumbnail(max_size), np.asarray(raw.get_thumbnail(max_size)))


@pytest.mark.parametrize(("level", "size", "words"), [(9, (4, 4), "level 9"), (-1, (4, 4), "-1"), (0, (0, 4), "0 x 4")])
def test_a_request_that_cannot_be_meant(slide: Slide, level: int, size: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        slide.read_region((0, 0), level, size)
