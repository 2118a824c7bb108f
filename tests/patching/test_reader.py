from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
from PIL import Image

from trident.errors import UnreadableSlideError
from trident.patching.grid import PatchGeometry, ReadPlan, plan_read
from trident.patching.reader import PatchReader
from trident.slides.registry import open_slide


def test_equal_sizes_give_the_regions_own_pixels(array_slide):
    slide = array_slide()
    patch = PatchReader(slide, ReadPlan(level=0, read_px=64, patch_size_px=64)).read(10, 20)
    np.testing.assert_array_equal(patch, slide.levels[0][20:84, 10:74])


@pytest.mark.parametrize(
    ("target", "downsamples", "side_px"), [(20, (1,), 128), (10, (1, 4), 64), (5, (1, 2, 4), 128), (80, (1,), 32)]
)
def test_pixels_equal_pil_bicubic_of_the_planned_square(array_slide, target, downsamples, side_px):
    slide = array_slide((1000, 900), downsamples=downsamples)
    geometry = PatchGeometry(64, 0, target, 40, *slide.dimensions)
    plan = plan_read(geometry, slide.level_downsamples)
    assert plan.read_px == side_px
    step = downsamples[plan.level]
    x, y = 40, 80
    square = slide.levels[plan.level][y // step :, x // step :][:side_px, :side_px]
    expected = np.asarray(Image.fromarray(square).resize((64, 64), Image.BICUBIC))
    patch = PatchReader(slide, plan).read(x, y)
    assert patch.dtype == np.uint8
    assert patch.shape == (64, 64, 3)
    assert patch.flags.writeable
    np.testing.assert_array_equal(patch, expected)


def test_beyond_the_slide_is_black(array_slide):
    slide = array_slide(np.full((100, 100, 3), 255, np.uint8))
    patch = PatchReader(slide, ReadPlan(0, 64, 64)).read(64, 0)
    assert (patch[:, :36] == 255).all()
    assert (patch[:, 36:] == 0).all()


def test_numpy_coordinates_are_taken(array_slide):
    reader = PatchReader(array_slide(), ReadPlan(0, 32, 32))
    x, y = np.array([7, 9], np.int64)
    np.testing.assert_array_equal(reader.read(x, y), reader.read(7, 9))


def test_many_threads_read_the_same_pixels(array_slide):
    reader = PatchReader(array_slide(), ReadPlan(0, 100, 48))
    corners = [(x, y) for y in range(0, 400, 50) for x in range(0, 600, 50)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda corner: reader.read(*corner), corners))
    for corner, patch in zip(corners, together, strict=True):
        np.testing.assert_array_equal(patch, reader.read(*corner))


def test_an_undecodable_region_is_an_error_not_white(array_slide):
    slide = array_slide()
    slide.undecodable.add((32, 0))
    with pytest.raises(UnreadableSlideError, match="does not decode"):
        PatchReader(slide, ReadPlan(0, 32, 32)).read(32, 0)


@pytest.mark.parametrize(
    ("file", "mpp", "target", "level", "read_px"),
    [
        ("CMU-1-Small-Region.svs", None, 10, 0, 512),
        ("CMU-1-Small-Region.svs", None, 20, 0, 256),
        ("CMU-1-Small-Region.svs", None, 40, 0, 128),
        ("TCGA-CR-7395-no-mpp.svs", 2.0, 2.5, 1, 256),
        ("TCGA-CR-7395-no-mpp.svs", 2.0, 1.25, 1, 512),
    ],
)
def test_real_slides_give_openslides_pixels_resized_by_pil(shared_slides, file, mpp, target, level, read_px):
    with open_slide(shared_slides / file, mpp=mpp) as slide, openslide.OpenSlide(shared_slides / file) as plain:
        geometry = PatchGeometry(256, 0, target, slide.magnification, *slide.dimensions)
        plan = plan_read(geometry, slide.level_downsamples)
        assert plan == ReadPlan(level, read_px, 256)
        corners = geometry.corners()
        for x, y in [*corners[:: max(1, len(corners) // 6)].tolist(), corners[-1].tolist()]:
            rgba = np.asarray(plain.read_region((x, y), level, (read_px, read_px)))
            expected = Image.fromarray(np.ascontiguousarray(rgba[..., :3])).resize((256, 256), Image.BICUBIC)
            np.testing.assert_array_equal(PatchReader(slide, plan).read(x, y), np.asarray(expected))


def test_announced_patches_are_the_same_regions(array_slide):
    slide = array_slide()
    reader = PatchReader(slide, ReadPlan(0, 64, 32))
    coords = np.array([(x, y) for y in range(0, 200, 50) for x in range(-20, 200, 50)])
    regions = reader.announce(coords)
    out = np.empty((64, 64, 3), np.uint8)
    for index, (x, y) in enumerate(coords):
        regions.read_into(index, out)
        np.testing.assert_array_equal(out, reader.read_raw(x, y))


def test_an_announced_patch_that_does_not_decode_is_an_error_of_its_own(array_slide):
    slide = array_slide()
    slide.undecodable.add((32, 0))
    regions = PatchReader(slide, ReadPlan(0, 32, 32)).announce(np.array([[0, 0], [32, 0], [64, 0]]))
    out = np.empty((32, 32, 3), np.uint8)
    for index in (0, 2):
        regions.read_into(index, out)
    with pytest.raises(UnreadableSlideError, match="does not decode"):
        regions.read_into(1, out)


def test_regions_left_to_the_slide_are_read_there(array_slide, monkeypatch):
    class EverySecond:
        def read(self, index, out):
            out[:] = 9
            return index % 2 == 0

    slide = array_slide()
    asked = []
    monkeypatch.setattr(
        type(slide),
        "announce_regions",
        lambda self, *arguments: asked.append(arguments) or EverySecond(),
        raising=False,
    )
    coords = np.array([[0, 0], [32, 0]])
    regions = PatchReader(slide, ReadPlan(0, 32, 16)).announce(coords)
    assert asked[0][:2] == (0, 32)
    out = np.empty((32, 32, 3), np.uint8)
    regions.read_into(0, out)
    assert (out == 9).all()
    regions.read_into(1, out)
    np.testing.assert_array_equal(out, slide.levels[0][:32, 32:64])
