from __future__ import annotations

import cv2
import numpy as np
import pytest

from trident.segmentation.downscale import read_downscaled


@pytest.fixture
def noise():
    return np.random.default_rng(3).integers(0, 256, (480, 640, 3), dtype=np.uint8)


@pytest.mark.parametrize("strip_bytes", [2**25, 200_000, 70_000, 1])
def test_strips_equal_the_whole_resized_at_once(pyramid_slide, noise, strip_bytes):
    slide = pyramid_slide(noise)
    image = read_downscaled(slide, 16, strip_bytes=strip_bytes)
    expected = cv2.resize(noise, (40, 30), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(image, expected)


def test_no_strip_is_larger_than_asked(pyramid_slide, noise):
    slide = pyramid_slide(noise)
    seen = []
    read_downscaled(slide, 16, lambda done, total: seen.append((done, total)), strip_bytes=100_000)
    assert max(3 * width * height for _, width, height in slide.reads) <= 100_000
    assert seen == [(strip, len(slide.reads)) for strip in range(1, len(slide.reads) + 1)]
    assert sum(height for _, _, height in slide.reads) == 480


@pytest.mark.parametrize(("downsample", "level"), [(32, 2), (16.0, 2), (10, 1), (4, 1), (3, 0), (1, 0), (0.5, 0)])
def test_the_nearest_finer_level_is_read(pyramid_slide, noise, downsample, level):
    slide = pyramid_slide(noise, downsamples=(1, 4, 16))
    image = read_downscaled(slide, downsample)
    assert {used for used, _, _ in slide.reads} == {level}
    shrink = max(1, downsample)
    assert image.shape == (round(480 / shrink), round(640 / shrink), 3)


def test_uneven_strips_keep_features_in_place(pyramid_slide):
    """Level rows per pixel are not whole here, so strips begin on rounded rows: nothing may shift by a pixel."""
    level0 = np.full((1003, 701, 3), 240, np.uint8)
    level0[500:600, 200:400] = (150, 40, 120)
    slide = pyramid_slide(level0)
    whole = cv2.resize(level0, (94, 134), interpolation=cv2.INTER_AREA).astype(int)
    strips = read_downscaled(slide, 7.4878, strip_bytes=30_000).astype(int)
    assert len(slide.reads) > 20
    assert strips.shape == whole.shape
    # Half a level row is 7 % of a pixel here, and the square's contrast is 200 grey levels.
    assert 0 < np.abs(strips - whole).max() <= 0.5 / 7.4878 * 200 + 2


def test_a_slide_smaller_than_a_pixel_gives_one(pyramid_slide):
    image = read_downscaled(pyramid_slide(np.full((5, 9, 3), 77, np.uint8)), 32)
    assert image.shape == (1, 1, 3)
    assert (image == 77).all()
