from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from trident.errors import MissingMppError
from trident.segmentation.otsu import OtsuSegmenter, otsu_mask
from trident.slides.registry import open_slide

GLASS, TISSUE, PALE, GREY, BLACK = (243, 243, 244), (190, 80, 150), (225, 170, 205), (140, 142, 141), (20, 25, 22)


def draw(*shapes, size=(500, 400), seed=0):
    """An image of glass with filled circles (colour, x, y, radius) on it, and sensor noise."""
    image = np.full((size[1], size[0], 3), GLASS, np.uint8)
    for colour, x, y, radius in shapes:
        cv2.circle(image, (x, y), radius, colour, -1)
    noise = np.random.default_rng(seed).integers(-1, 2, (size[1], size[0], 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def disc(x, y, radius, size=(500, 400)):
    raster = np.zeros((size[1], size[0]), np.uint8)
    cv2.circle(raster, (x, y), radius, 1, -1)
    return raster.astype(bool)


def by_skimage(image):
    """The same steps with another library."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    unstained = ((hsv[..., 1] <= 10) & (hsv[..., 2] >= 70)) | (hsv[..., 2] <= 85)
    whitened = image.copy()
    whitened[unstained] = 255
    grey = np.round(whitened @ [0.299, 0.587, 0.114]).astype(np.uint8)
    found = remove_small_objects(grey <= threshold_otsu(grey), max_size=59)
    grey[~found] = 255
    return remove_small_holes(grey <= threshold_otsu(grey), max_size=5000)


def test_tissue_is_found_and_glass_pen_dust_are_not():
    image = draw((TISSUE, 150, 180, 90), (GREY, 350, 100, 40), (BLACK, 400, 300, 40), (TISSUE, 300, 350, 3))
    np.testing.assert_array_equal(otsu_mask(image), disc(150, 180, 90))


@pytest.mark.parametrize(("radius", "found"), [(3, False), (4, False), (5, True), (8, True)])
def test_objects_under_60_px_are_dropped(radius, found):
    area_px = int(disc(400, 200, radius).sum())
    assert (area_px >= 60) == found
    mask = otsu_mask(draw((TISSUE, 150, 180, 90), (TISSUE, 400, 200, radius)))
    assert mask[200, 400] == found


@pytest.mark.parametrize(("radius", "filled"), [(20, True), (39, True), (41, False), (60, False)])
def test_holes_up_to_5000_px_are_filled(radius, filled):
    assert (disc(250, 200, radius).sum() <= 5000) == filled
    mask = otsu_mask(draw((TISSUE, 250, 200, 150), (GLASS, 250, 200, radius)))
    assert mask[200, 250] == filled
    assert mask.sum() == disc(250, 200, 150).sum() - (0 if filled else disc(250, 200, radius).sum())


def test_glass_cut_off_by_the_border_is_no_hole():
    image = np.full((300, 300, 3), TISSUE, np.uint8)
    image[:40, :40] = GLASS
    mask = otsu_mask(image)
    assert not mask[:40, :40].any()
    assert mask[41:, :].all()


def test_black_beyond_the_slide_and_grey_glass_change_nothing():
    image = draw((TISSUE, 150, 180, 90))
    framed = image.copy()
    framed[350:] = 0
    framed[:, 450:] = GREY
    np.testing.assert_array_equal(otsu_mask(framed), otsu_mask(image))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_grey_level_gives_an_empty_mask(level):
    mask = otsu_mask(np.full((40, 30, 3), level, np.uint8))
    assert mask.shape == (40, 30)
    assert mask.dtype == np.bool_
    assert not mask.any()


def test_all_tissue_of_one_colour_has_no_threshold():
    assert not otsu_mask(np.full((100, 100, 3), TISSUE, np.uint8)).any()


def test_noisy_tissue_equals_the_same_steps_in_skimage():
    rng = np.random.default_rng(5)
    texture = cv2.GaussianBlur(rng.standard_normal((600, 800)), (0, 0), 12)
    density = np.clip(texture / texture.std() * 0.5 + 0.2, 0, 1)[..., np.newaxis]
    image = np.array(GLASS) * (1 - density) + np.array(TISSUE) * density + rng.normal(0, 6, (600, 800, 1))
    image = np.clip(image, 0, 255).astype(np.uint8)
    image[:2], image[-2:], image[:, :2], image[:, -2:] = GLASS, GLASS, GLASS, GLASS  # so every hole is enclosed
    mask = otsu_mask(image)
    assert 0.1 < mask.mean() < 0.9
    assert (mask == by_skimage(image)).mean() > 0.999


def test_a_slide_is_looked_at_at_1_25x(pyramid_slide):
    small = draw((TISSUE, 150, 180, 90))
    level0 = cv2.resize(small, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    slide = pyramid_slide(level0, downsamples=(1, 4), mpp=1.0)  # 10x
    found = OtsuSegmenter().segment(slide)
    assert found.mask.shape == (400, 500)
    assert (found.downsample_x, found.downsample_y) == (8.0, 8.0)
    assert (found.mask == disc(150, 180, 90)).mean() > 0.998


def test_downsamples_bring_the_mask_back_to_level_0_exactly(pyramid_slide):
    slide = pyramid_slide(np.full((1003, 701, 3), 250, np.uint8))
    found = OtsuSegmenter().segment(slide)
    height, width = found.mask.shape
    assert (width * found.downsample_x, height * found.downsample_y) == pytest.approx((701, 1003))


def test_a_slide_without_resolution_is_an_error(pyramid_slide):
    with pytest.raises(MissingMppError):
        OtsuSegmenter().segment(pyramid_slide(np.zeros((64, 64, 3), np.uint8), mpp=None))


@pytest.mark.parametrize(
    ("file", "mpp", "least", "most"),
    [("CMU-1-Small-Region.svs", None, 0.30, 0.48), ("TCGA-CR-7395-no-mpp.svs", 2.0, 0.55, 0.70)],
)
def test_real_slides_have_a_plausible_share_of_tissue(shared_slides, file, mpp, least, most):
    with open_slide(shared_slides / file, mpp=mpp) as slide:
        found = OtsuSegmenter().segment(slide)
        thumbnail = slide.thumbnail(found.mask.shape[::-1])
    assert least < found.mask.mean() < most
    # Independent of the threshold: what was found is more saturated than what was not.
    saturation = cv2.cvtColor(cv2.resize(thumbnail, found.mask.shape[::-1]), cv2.COLOR_RGB2HSV)[..., 1]
    assert np.median(saturation[found.mask]) > 4 * np.median(saturation[~found.mask]) + 20
