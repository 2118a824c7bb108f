"""Artifacts out of tissue: areas, holes, and which tiles are looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon, box

from trident.segmentation.artifacts import draw_polygons, remove_artifacts
from trident.segmentation.base import TissueMask
from trident.segmentation.contours import mask_to_polygons
from trident.segmentation.spec import GRANDQC_ARTIFACT

WIDTH, HEIGHT = 2400, 2000
"""A slide at 10x, so that a mask pixel is a level-0 pixel, and outlines are made at its own size."""

Make = Callable[..., object]
Region = tuple[int, int, int, int]


def _red(class_index: int) -> int:
    return class_index * 32 + 16


def _slide(make: Make, artifacts: dict[Region, int], rest: int = 1) -> object:
    """Clean tissue everywhere but in regions (left, top, right, bottom), which have their class."""
    level0 = np.full((HEIGHT, WIDTH, 3), _red(rest), np.uint8)
    for (left, top, right, bottom), class_index in artifacts.items():
        level0[top:bottom, left:right] = _red(class_index)
    return make(level0, mpp=1.0)


TISSUE = [box(100, 100, 1400, 900)]


@pytest.mark.parametrize("class_index", range(8))
@pytest.mark.parametrize("penmarks_only", [False, True])
def test_each_class(pyramid_slide: Make, make_segmenter: Make, class_index: int, penmarks_only: bool) -> None:
    region = (1000, 50, 1450, 950)
    slide = _slide(pyramid_slide, {region: class_index})
    remover = make_segmenter(GRANDQC_ARTIFACT, remove_penmarks_only=penmarks_only)
    removed = class_index in ((4, 7) if penmarks_only else (2, 3, 4, 5, 6, 7))
    found = remove_artifacts(slide, TISSUE, remover)
    if not removed:
        assert found == TISSUE, "an outline from which nothing is removed stays as it is"
        return
    (outline,) = found
    # An outline runs through the centres of border pixels, so the first one that is removed is beyond it.
    assert outline.equals(box(100, 100, 999, 900))


def test_what_is_removed_inside_becomes_a_hole(pyramid_slide: Make, make_segmenter: Make) -> None:
    pen = (600, 300, 900, 600)
    slide = _slide(pyramid_slide, {pen: 4, (1200, 300, 1230, 330): 4})
    (outline,) = remove_artifacts(slide, TISSUE, make_segmenter(GRANDQC_ARTIFACT))
    (hole,) = outline.interiors  # the speck of 900 px is below the least hole's size
    lost = TISSUE[0].difference(outline)
    assert Polygon(hole).symmetric_difference(lost).area < 1e-6
    assert lost.symmetric_difference(box(*pen)).area <= 2 * (300 + 300) + 4
    assert outline.is_valid


def test_artifacts_beside_the_tissue_play_no_part(pyramid_slide: Make, make_segmenter: Make) -> None:
    slide = _slide(pyramid_slide, {(1450, 0, 2400, 2000): 4, (0, 950, 2400, 2000): 7})
    assert remove_artifacts(slide, TISSUE, make_segmenter(GRANDQC_ARTIFACT)) == TISSUE


def test_only_tiles_with_tissue_are_read(pyramid_slide: Make, make_segmenter: Make) -> None:
    slide = _slide(pyramid_slide, {})
    corners: set[tuple[int, int]] = set()
    read = slide.read_region

    def read_region(location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        corners.add(location)
        return read(location, level, size)

    slide.read_region = read_region
    tissue = [box(600, 100, 900, 400), box(1500, 1540, 1600, 1700)]
    seen: list[tuple[int, int]] = []
    found = remove_artifacts(
        slide, tissue, make_segmenter(GRANDQC_ARTIFACT), lambda done, total: seen.append((done, total))
    )
    assert corners == {(512, 0), (1024, 1536), (1536, 1536)}
    assert seen[-1] == (3, 3)
    assert found == tissue


def test_a_split_outline_and_one_that_is_lost(pyramid_slide: Make, make_segmenter: Make) -> None:
    slide = _slide(pyramid_slide, {(700, 0, 760, 1000): 2, (1800, 1500, 2200, 1900): 6})
    tissue = [*TISSUE, box(1850, 1550, 2150, 1850)]
    left, right = sorted(
        remove_artifacts(slide, tissue, make_segmenter(GRANDQC_ARTIFACT)), key=lambda outline: outline.bounds
    )
    assert left.equals(box(100, 100, 699, 900))
    assert right.equals(box(760, 100, 1400, 900))


def test_nothing_is_left(pyramid_slide: Make, make_segmenter: Make) -> None:
    slide = _slide(pyramid_slide, {}, rest=7)
    assert remove_artifacts(slide, TISSUE, make_segmenter(GRANDQC_ARTIFACT)) == []


def test_at_another_magnification(pyramid_slide: Make, make_segmenter: Make) -> None:
    """40x, holes in the tissue, and artifacts over a seam between tiles, against shapely's own difference."""
    level0 = np.full((3200, 4800, 3), _red(1), np.uint8)
    level0[800:2400, 1800:2400] = _red(5)
    slide = pyramid_slide(level0, downsamples=(1, 4), mpp=0.25)
    tissue = [Polygon(box(400, 400, 4400, 2800).exterior, [box(3000, 1000, 3800, 1800).exterior])]
    expected = tissue[0].difference(box(1800, 800, 2400, 2400))
    (found,) = remove_artifacts(slide, tissue, make_segmenter(GRANDQC_ARTIFACT))
    assert len(found.interiors) == 2
    assert found.symmetric_difference(expected).area / expected.area < 0.01


@pytest.mark.parametrize("cut_holes", [False, True])
def test_drawing_is_the_counterpart_of_outlining(cut_holes: bool) -> None:
    mask = np.zeros((2000, 1500), np.bool_)  # 2,000 rows are not scaled
    y, x = np.mgrid[:2000, :1500]
    disc = (x - 700) ** 2 + (y - 800) ** 2
    mask[disc < 500**2] = True
    if cut_holes:
        mask[disc < 200**2] = False
        mask[disc < 100**2] = True
    mask[1500:1990, 3:1496] = True
    polygons = mask_to_polygons(TissueMask(mask, 4.0, 4.0), cut_holes=cut_holes, slide_size=(6000, 8000))
    drawn = np.zeros_like(mask)
    draw_polygons(drawn, polygons, 4.0)
    np.testing.assert_array_equal(drawn, mask)
    assert shapely.union_all(polygons).area > 0
