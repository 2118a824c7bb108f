from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Polygon, box

from trident.slides.registry import open_slide
from trident.viz.overlays import draw_patches, draw_tissue, save_jpeg, slide_thumbnail

SLIDE = (10_000, 6_000)
GREEN, RED = (0, 200, 0), (230, 0, 0)


@pytest.fixture
def thumbnail():
    return np.full((600, 1000, 3), 240, np.uint8)


def test_outlines_are_green_and_holes_red_where_they_belong(thumbnail):
    ring = Polygon(box(1000, 1000, 8000, 5000).exterior, [box(3000, 2000, 6000, 4000).exterior])
    picture = draw_tissue(thumbnail, [ring], SLIDE)
    assert picture.shape == thumbnail.shape
    for x, y, colour in [(100, 300, GREEN), (800, 300, GREEN), (450, 100, GREEN), (450, 500, GREEN)]:
        assert tuple(picture[y, x]) == colour
    for x, y in [(300, 300), (600, 300), (450, 200), (450, 400)]:
        assert tuple(picture[y, x]) == RED
    for x, y in [(50, 300), (200, 300), (450, 300), (900, 300)]:
        assert tuple(picture[y, x]) == (240, 240, 240)


def test_a_hole_is_drawn_over_an_outline(thumbnail):
    outer = Polygon(box(1000, 1000, 8000, 5000).exterior, [box(3000, 2000, 6000, 4000).exterior])
    island = box(3000, 2000, 4000, 3000)
    assert tuple(draw_tissue(thumbnail, [outer, island], SLIDE)[250, 300]) == RED


def test_no_tissue_leaves_the_thumbnail(thumbnail):
    np.testing.assert_array_equal(draw_tissue(thumbnail, [], SLIDE), thumbnail)


def test_inputs_are_not_drawn_on(thumbnail):
    thumbnail.setflags(write=False)
    draw_tissue(thumbnail, [box(0, 0, 5000, 5000)], SLIDE)
    draw_patches(thumbnail, np.array([[0, 0]]), 500, SLIDE)
    assert (thumbnail == 240).all()


def test_patches_are_tinted_and_framed_and_nothing_else_is(thumbnail):
    coords = np.array([[5000, 3000], [5500, 3000], [9900, 5900]])
    picture = draw_patches(thumbnail, coords, 500, SLIDE)
    changed = (picture != thumbnail).any(axis=2)
    expected = np.zeros((600, 1000), bool)
    expected[300:351, 500:601] = True
    expected[590:600, 990:1000] = True  # reaches beyond the slide
    np.testing.assert_array_equal(changed[100:], expected[100:])
    frame, inside = picture[325, 500].astype(int), picture[325, 525].astype(int)
    assert frame[0] < inside[0] < 240  # both blue; the frame is stronger
    assert (picture[325, 550] == frame).all()  # the line between neighbours
    assert (picture[300, 525] == frame).all()


def test_patches_smaller_than_a_pixel_still_show(thumbnail):
    picture = draw_patches(thumbnail, np.array([[5003, 3004]]), 2, SLIDE)
    assert (picture[300, 500] != 240).any()
    assert not (picture[299, 500] != 240).any()


def label_of(thumbnail, *args):
    """The black box with the count in the top-left corner."""
    return draw_patches(thumbnail, np.empty((0, 2), np.int64), 512, SLIDE, *args)[:60, :500]


def test_the_count_is_written(thumbnail):
    none, given, other = label_of(thumbnail), label_of(thumbnail, 12_345), label_of(thumbnail, 12_346)
    assert (none == 0).all(axis=2).sum() > 1000
    assert (none == 255).all(axis=2).sum() > 50
    assert (given != other).any()
    coords = np.array([[9000, 5000], [9500, 5000]])
    counted = draw_patches(thumbnail, coords, 500, SLIDE)[:60, :500]
    np.testing.assert_array_equal(counted, label_of(thumbnail, 2))


@pytest.mark.parametrize("shape", [(1000, 30), (12, 1000), (1, 1)])
def test_odd_thumbnails_are_drawn_on_all_the_same(shape):
    picture = draw_patches(np.full((*shape, 3), 200, np.uint8), np.array([[0, 0]]), 100, (shape[1] * 10, shape[0] * 10))
    assert picture.shape == (*shape, 3)
    assert (picture != 200).any()


def test_jpeg_is_written_to_exactly_the_given_path(tmp_path, thumbnail):
    path = tmp_path / ".slide.tmp.jpg"
    gradient = np.tile(np.linspace(0, 255, 1000, dtype=np.uint8)[:, np.newaxis], (600, 1, 3))
    save_jpeg(path, gradient)
    assert [file.name for file in tmp_path.iterdir()] == [".slide.tmp.jpg"]
    with Image.open(path) as image:
        assert (image.format, image.size) == ("JPEG", (1000, 600))
        assert np.abs(np.asarray(image).astype(int) - gradient).mean() < 2
    larger = tmp_path / "better"
    save_jpeg(larger, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), quality=98)
    smaller = tmp_path / "worse"
    save_jpeg(smaller, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), quality=20)
    assert smaller.stat().st_size < larger.stat().st_size


@pytest.mark.parametrize(
    ("file", "mpp", "size"),
    [("CMU-1-Small-Region.svs", None, (748, 1000)), ("TCGA-CR-7395-no-mpp.svs", 2.0, (1000, 803))],
)
def test_thumbnails_of_real_slides_have_a_longest_side_of_1000_px(shared_slides, file, mpp, size):
    with open_slide(shared_slides / file, mpp=mpp) as slide:
        thumbnail = slide_thumbnail(slide)
    assert thumbnail.shape == (size[1], size[0], 3)


def test_a_slides_thumbnail_is_made_once_and_anew_for_another_file(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(b"one")
    slide = SimpleNamespace(path=path, reader_type="x", thumbnail=lambda size: np.full((*size, 3), len(made), np.uint8))
    made = [1]
    first = slide_thumbnail(slide)
    made.append(2)
    assert slide_thumbnail(slide) is first
    assert not first.flags.writeable
    path.write_bytes(b"another")
    assert slide_thumbnail(slide)[0, 0, 0] == 2
    path.unlink()
    made.append(3)
    assert slide_thumbnail(slide)[0, 0, 0] == 3
