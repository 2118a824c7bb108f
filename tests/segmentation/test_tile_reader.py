"""Tiles that are read in blocks against the same tiles read whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trident.patching.grid import ReadPlan
from trident.patching.reader import PatchReader
from trident.segmentation.tile_reader import TileReader


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Sharp edges at every scale: each kind of mistake at a seam shows."""
    rng = np.random.default_rng(1)
    fine = rng.integers(0, 256, (1500, 1800, 3), dtype=np.uint8)
    coarse = np.kron(rng.integers(0, 2, (30, 36, 1), dtype=np.uint8), np.ones((50, 50, 3), np.uint8)) * np.uint8(255)
    return np.where(coarse > 0, fine, coarse)


@pytest.mark.parametrize(
    ("read_px", "max_read_px", "tolerance"),
    [
        (1280, 300, 0),  # a whole factor of 10
        (1280, 1279, 0),
        (640, 200, 0),
        (320, 100, 0),  # 2.5
        (129, 60, 0),
        (1000, 200, 0),  # 7.8125: seams are at fractions of a pixel
        (1111, 200, 1),  # a fraction that the 32-bit floats of PIL's boxes only come near to
        (1280, 20, 0),  # less than the filter needs: one pixel of the result at a time
    ],
)
@pytest.mark.parametrize("corner", [(0, 0), (600, 700), (1700, 1450)])
def test_pixels_are_those_of_the_patch_reader(
    pyramid_slide: Callable[..., object],
    noise: np.ndarray,
    read_px: int,
    max_read_px: int,
    tolerance: int,
    corner: tuple[int, int],
) -> None:
    slide = pyramid_slide(noise)
    plan = ReadPlan(0, read_px, 128)
    expected = PatchReader(slide, plan).read(*corner)
    slide.reads.clear()
    reader = TileReader(slide, plan, max_read_px=max_read_px)
    assert reader.in_blocks
    got = reader.read(*corner)
    assert got.shape == (128, 128, 3)
    assert np.abs(got.astype(int) - expected).max() <= tolerance
    if max_read_px >= 60:
        assert max(max(size) for _, *size in slide.reads) <= max_read_px


def test_blocks_of_a_coarser_level(pyramid_slide: Callable[..., object], noise: np.ndarray) -> None:
    slide = pyramid_slide(noise, downsamples=(1, 2))
    plan = ReadPlan(1, 640, 128)
    expected = PatchReader(slide, plan).read(200, 100)
    np.testing.assert_array_equal(TileReader(slide, plan, max_read_px=200).read(200, 100), expected)


def test_what_is_beyond_the_slide_is_not_read(pyramid_slide: Callable[..., object], noise: np.ndarray) -> None:
    slide = pyramid_slide(noise)  # 1800 x 1500
    tile = TileReader(slide, ReadPlan(0, 20480, 512), max_read_px=2400).read(0, 0)
    assert len(slide.reads) == 1
    assert tile[39:, 46:].max() == 0
    assert tile[:37, :44].max(axis=2).mean() > 50


@pytest.mark.parametrize("read_px", [512, 200, 2400])
def test_a_usual_tile_is_read_at_once(pyramid_slide: Callable[..., object], noise: np.ndarray, read_px: int) -> None:
    slide = pyramid_slide(noise)
    reader = TileReader(slide, ReadPlan(0, read_px, 512))
    assert not reader.in_blocks
    np.testing.assert_array_equal(reader.read(3, 4), PatchReader(slide, reader.plan).read(3, 4))
    assert slide.reads == [(0, read_px, read_px)] * 2


@pytest.mark.parametrize(("read_px", "whole"), [(512, True), (2400, True), (2401, False)])
def test_the_feature_loop_reads_usual_tiles_together(
    pyramid_slide: Callable[..., object], noise: np.ndarray, read_px: int, whole: bool
) -> None:
    slide = pyramid_slide(noise)
    reader = TileReader(slide, ReadPlan(0, read_px, 512))
    assert (type(reader.source) is PatchReader) == whole
    read = reader.source.read if isinstance(reader.source, PatchReader) else reader.source
    np.testing.assert_array_equal(read(300, 200), reader.read(300, 200))
