from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from scipy import ndimage
from shapely.geometry import box
from shapely.ops import unary_union

from trident.segmentation.base import TissueMask
from trident.segmentation.contours import mask_to_polygons

WIDTH, ROWS = 1500, 2000
SLIDE = (WIDTH * 10, ROWS * 10)


def outlines(raster, *, cut_holes, downsample=10.0, slide_size=SLIDE):
    return mask_to_polygons(TissueMask(raster, downsample, downsample), cut_holes=cut_holes, slide_size=slide_size)


def blank():
    return np.zeros((ROWS, WIDTH), bool)


@pytest.mark.parametrize("cut_holes", [False, True])
def test_a_rectangle_runs_through_the_centres_of_its_border_pixels(cut_holes):
    raster = blank()
    raster[100:300, 400:900] = True
    (polygon,) = outlines(raster, cut_holes=cut_holes)
    assert polygon.equals(box(4000, 1000, 8990, 2990))


@pytest.mark.parametrize(("side", "kept"), [(32, 0), (33, 1)])  # areas of 31² = 961 and 32² = 1024 px
def test_outlines_of_up_to_1000_px_are_dropped(side, kept):
    raster = blank()
    raster[50 : 50 + side, 50 : 50 + side] = True
    assert len(outlines(raster, cut_holes=False)) == kept


@pytest.mark.parametrize(("side", "holes"), [(62, 0), (63, 1)])  # hole contours of 63² - 2 = 3967 and 64² - 2 = 4094 px
def test_holes_of_over_4000_px_are_kept(side, holes):
    raster = blank()
    raster[100:500, 100:500] = True
    raster[200 : 200 + side, 200 : 200 + side] = False
    (polygon,) = outlines(raster, cut_holes=True)
    assert len(polygon.interiors) == holes
    (filled,) = outlines(raster, cut_holes=False)
    assert len(filled.interiors) == 0
    assert filled.area - polygon.area == pytest.approx(holes * (64**2 - 2) * 100)


def test_only_the_20_largest_holes_are_kept():
    raster = blank()
    raster[10:1900, 10:1490] = True
    sides = list(range(70, 95))
    for index, side in enumerate(sides):
        y, x = 100 + 200 * (index // 7), 50 + 200 * (index % 7)
        raster[y : y + side, x : x + side] = False
    (polygon,) = outlines(raster, cut_holes=True)
    kept_sides = sorted(round(np.sqrt(shapely.Polygon(ring).area) / 10) - 1 for ring in polygon.interiors)
    assert kept_sides == sides[-20:]


def test_net_area_leaves_out_the_kept_holes():
    raster = blank()
    raster[100:171, 100:171] = True
    raster[101:170, 101:170] = False  # a frame of one pixel: its outer area is 4900 px, its net area 2 px
    assert outlines(raster, cut_holes=True) == []
    assert len(outlines(raster, cut_holes=False)) == 1


def test_islands_in_holes():
    raster = blank()
    raster[100:900, 100:900] = True
    raster[200:800, 200:800] = False
    raster[400:600, 400:600] = True
    ring, island = sorted(outlines(raster, cut_holes=True), key=lambda polygon: -polygon.area)
    assert (len(ring.interiors), len(island.interiors)) == (1, 0)
    assert island.equals(box(4000, 4000, 5990, 5990))
    assert not ring.intersects(island)
    (filled,) = outlines(raster, cut_holes=False)
    assert filled.equals(box(1000, 1000, 8990, 8990))


def test_an_island_in_a_filled_hole_is_not_counted_twice():
    raster = blank()
    raster[10:1900, 10:1490] = True
    for index in range(21):  # the 21st hole is the smallest: it is filled, with the island in it
        side = 150 if index < 20 else 120
        y, x = 100 + 200 * (index // 7), 50 + 200 * (index % 7)
        raster[y : y + side, x : x + side] = False
    raster[500 + 30 : 500 + 90, 1250 + 30 : 1250 + 90] = True
    assert raster[500 + 60, 1250 + 60]
    assert not raster[500 + 10, 1250 + 10]
    polygons = outlines(raster, cut_holes=True)
    assert len(polygons) == 1
    assert polygons[0].contains(shapely.Point(12_550 + 50, 5_050 + 50))


@pytest.mark.parametrize("cut_holes", [False, True])
def test_random_blobs_cover_exactly_the_tissue_pixels(cut_holes):
    """On a mask of 2,000 rows nothing is scaled: a pixel is tissue if and only if its centre lies in an outline."""
    rng = np.random.default_rng(11)
    raster = cv2.GaussianBlur(rng.standard_normal((ROWS, 600)), (0, 0), 25) > 0.006
    polygons = outlines(raster, cut_holes=cut_holes, downsample=1.0, slide_size=(600, ROWS))
    assert len(polygons) > 3
    assert all(polygon.is_valid and polygon.geom_type == "Polygon" for polygon in polygons)

    # Independent: 8-connected parts; 4-connected holes, that is background out of reach of the border.
    expected = ndimage.binary_fill_holes(raster) if not cut_holes else raster.copy()
    if cut_holes:
        holes, _ = ndimage.label(ndimage.binary_fill_holes(raster) & ~raster)
        sizes = np.bincount(holes.ravel())
        expected[(sizes < 3800)[holes] & (holes > 0)] = True
        doubtful = (sizes >= 3800) & (sizes < 4200)
        assert not doubtful[1:].any()
    parts, _ = ndimage.label(expected, structure=np.ones((3, 3)))
    part_sizes = np.bincount(parts.ravel())
    large = part_sizes > 1200
    large[0] = False
    expected &= large[parts]
    # The contract's areas are of outlines through pixel centres, somewhat less than a count of pixels.
    clear = ~((part_sizes >= 1000) & (part_sizes <= 1200))[parts]
    assert clear.mean() > 0.98

    union = unary_union(polygons)
    shapely.prepare(union)
    ys, xs = np.mgrid[0:ROWS:3, 0:600:3]
    inside = shapely.intersects_xy(union, xs.ravel(), ys.ravel()).reshape(xs.shape)
    np.testing.assert_array_equal(inside & clear[::3, ::3], (expected & clear)[::3, ::3])


@pytest.mark.parametrize(("rows", "columns"), [(100, 150), (700, 500), (4000, 3000)])
def test_masks_of_any_size_keep_their_area_and_place(rows, columns):
    angle = np.linspace(0, 2 * np.pi, 500)
    truth = shapely.Polygon(np.column_stack([25_000 + 9_000 * np.cos(angle), 20_000 + 6_000 * np.sin(angle)]))
    slide_size = (50_000, 40_000)
    downsample_x, downsample_y = slide_size[0] / columns, slide_size[1] / rows
    ys, xs = np.mgrid[0:rows, 0:columns] + 0.5
    raster = shapely.contains_xy(truth, (xs * downsample_x).ravel(), (ys * downsample_y).ravel()).reshape(rows, columns)
    (polygon,) = mask_to_polygons(
        TissueMask(raster, downsample_x, downsample_y), cut_holes=False, slide_size=slide_size
    )
    overlap = polygon.intersection(truth).area / polygon.union(truth).area
    assert overlap > (0.95 if rows == 100 else 0.985)


def test_a_diagonal_touch_is_made_valid_as_separate_polygons():
    raster = blank()
    raster[100:200, 100:200] = True
    raster[200:300, 200:300] = True
    polygons = outlines(raster, cut_holes=True)
    assert all(polygon.is_valid for polygon in polygons)
    assert sum(polygon.area for polygon in polygons) == pytest.approx(2 * 990**2)


def test_outlines_are_clipped_to_the_slide_and_run_from_top_to_bottom():
    raster = blank()
    raster[1500:, 700:] = True
    raster[100:300, 100:300] = True
    first, second = outlines(raster, cut_holes=False, slide_size=(14_000, 19_500))
    assert first.bounds == (1000, 1000, 2990, 2990)
    assert second.bounds == (7000, 15_000, 14_000, 19_500)


@pytest.mark.parametrize("shape", [(1, 1), (2000, 10), (10, 2000), (185, 139)])
def test_an_empty_mask_has_no_outlines(shape):
    assert outlines(np.zeros(shape, bool), cut_holes=True) == []


def test_a_very_wide_mask_is_not_blown_up():
    raster = np.zeros((10, 4000), bool)
    raster[:, 1000:2000] = True
    (polygon,) = mask_to_polygons(TissueMask(raster, 10.0, 10.0), cut_holes=False, slide_size=(40_000, 100))
    assert polygon.intersection(box(10_000, 0, 20_000, 100)).area > 0.97 * 10_000 * 100
    assert polygon.area < 1.03 * 10_000 * 100


def test_a_full_mask_is_one_outline_of_nearly_the_whole_slide():
    (polygon,) = outlines(np.ones((ROWS, WIDTH), bool), cut_holes=False)
    assert 0.998 < polygon.area / (SLIDE[0] * SLIDE[1]) <= 1


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros(4, bool), np.zeros((4, 4, 1), bool)])
def test_a_mask_is_a_bool_image(bad):
    with pytest.raises(ValueError, match="bool array"):
        TissueMask(bad, 1.0, 1.0)
