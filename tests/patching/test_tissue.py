from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box
from shapely.ops import unary_union

from trident.errors import SettingsError
from trident.patching.grid import PatchGeometry
from trident.patching.tissue import select_on_tissue, unite


def blob(x: float, y: float, radius: float, n_vertices: int = 400, seed: int = 0) -> Polygon:
    """A wavy outline with a round hole."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, n_vertices, endpoint=False)
    waves = sum(rng.uniform(0.01, 0.05) * np.sin(k * angle + rng.uniform(0, 6)) for k in (3, 5, 9, 17, 40))
    reach = radius * (1 + waves)
    hole = shapely.Point(x + radius / 4, y).buffer(radius / 5)
    outline = Polygon(np.column_stack([x + reach * np.cos(angle), y + reach * np.sin(angle)]))
    return Polygon(outline.exterior, [hole.exterior.coords])


def by_hand(corners, side, tissue, min_proportion, simplify_px):
    """One patch after the other, with nothing shared between them."""
    simplified = [polygon.simplify(simplify_px, preserve_topology=True) for polygon in tissue]
    outline = unary_union([polygon if polygon.is_valid else polygon.buffer(0) for polygon in simplified])
    kept = []
    for x, y in corners.tolist():
        square = box(x, y, x + side, y + side)
        if min_proportion == 0:
            kept.append(square.intersects(outline))
        else:
            kept.append(square.intersection(outline).area / side**2 >= min_proportion - 1e-9)
    return np.array(kept)


TISSUE = [blob(3000, 2500, 1800), blob(6500, 3000, 1200, seed=1), blob(4200, 2600, 700, seed=2)]  # the last overlaps


@pytest.mark.parametrize("min_proportion", [0.0, 1e-6, 0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize(("patch_size", "overlap", "target"), [(256, 0, 20), (256, 64, 20), (100, 0, 15), (512, 0, 10)])
def test_selection_equals_one_by_one(min_proportion, patch_size, overlap, target):
    geometry = PatchGeometry(patch_size, overlap, target, 40, 8000, 5000)
    corners, side = geometry.corners(), geometry.side_level0_px
    selected = select_on_tissue(
        corners, side, TISSUE, min_proportion=min_proportion, simplify_px=geometry.simplify_level0_px
    )
    assert selected.dtype == np.bool_
    expected = by_hand(corners, side, TISSUE, min_proportion, geometry.simplify_level0_px)
    np.testing.assert_array_equal(selected, expected)
    if min_proportion < 1 and patch_size < 512:
        assert 0 < selected.sum() < len(corners)


def test_pieces_of_a_large_outline_add_up():
    """An outline of far more vertices than one piece has, so that squares span cuts."""
    tissue = [blob(2500, 2500, 2000, n_vertices=3000)]
    corners = PatchGeometry(128, 0, 20, 20, 5000, 5000).corners()
    for min_proportion in (0.25, 0.75):
        selected = select_on_tissue(corners, 128, tissue, min_proportion=min_proportion, simplify_px=0)
        np.testing.assert_array_equal(selected, by_hand(corners, 128, tissue, min_proportion, 0))


@given(
    rectangles=st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 60), st.integers(1, 60)),
        min_size=1,
        max_size=6,
    ),
    proportion=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_rectangles_equal_a_count_of_pixels(rectangles, proportion):
    """Whole-numbered rectangles have areas that a raster counts without any geometry."""
    raster = np.zeros((180, 180))
    for x, y, width, height in rectangles:
        raster[y : y + height, x : x + width] = 1
    corners = PatchGeometry(20, 5, 20, 20, 150, 150).corners()
    tissue = [box(x, y, x + width, y + height) for x, y, width, height in rectangles]
    selected = select_on_tissue(corners, 20, tissue, min_proportion=proportion, simplify_px=0)
    for (x, y), kept in zip(corners.tolist(), selected.tolist(), strict=True):
        if proportion > 0:
            assert kept == (raster[y : y + 20, x : x + 20].mean() >= proportion)
        else:
            touches = any(rx <= x + 20 and x <= rx + w and ry <= y + 20 and y <= ry + h for rx, ry, w, h in rectangles)
            assert kept == touches


def test_touching_counts_at_zero_only():
    corners = np.array([[0, 0], [100, 0], [201, 0]])
    tissue = [box(200, 0, 300, 100)]
    assert select_on_tissue(corners, 100, tissue, min_proportion=0, simplify_px=0).tolist() == [False, True, True]
    assert select_on_tissue(corners, 100, tissue, min_proportion=1e-3, simplify_px=0).tolist() == [False, False, True]


def test_the_share_is_reached_exactly():
    corners = np.array([[0, 0]])
    tissue = [box(0, 0, 30, 100)]
    assert select_on_tissue(corners, 100, tissue, min_proportion=0.3, simplify_px=0).all()
    assert not select_on_tissue(corners, 100, tissue, min_proportion=0.3001, simplify_px=0).any()


def test_a_patch_in_a_hole_is_left_out():
    ring = Polygon([(0, 0), (900, 0), (900, 900), (0, 900)], [[(200, 200), (700, 200), (700, 700), (200, 700)]])
    corners = np.array([[400, 400], [0, 0], [150, 300]])
    assert select_on_tissue(corners, 100, [ring], min_proportion=0, simplify_px=0).tolist() == [False, True, True]


def test_simplification_removes_small_teeth_before_patches_are_tested():
    # A thin spike reaches the patch; simplified by more than its width, it is gone.
    spike = Polygon([(0, 0), (100, 0), (100, 48), (130, 50), (100, 52), (100, 100), (0, 100)])
    corners = np.array([[120, 0]])
    assert select_on_tissue(corners, 100, [spike], min_proportion=0, simplify_px=0).all()
    assert not select_on_tissue(corners, 100, [spike], min_proportion=0, simplify_px=64).any()


def test_overlapping_and_self_crossing_outlines_are_counted_once():
    bow_tie = Polygon([(0, 0), (100, 100), (100, 0), (0, 100)])
    assert unite([bow_tie, bow_tie, box(0, 0, 10, 10)], 0).area < 5100
    selected = select_on_tissue(
        np.array([[0, 0]]), 100, [box(0, 0, 40, 100), box(20, 0, 40, 100)], min_proportion=0.45, simplify_px=0
    )
    assert not selected.any()  # 40 % once, 60 % if the overlap counted twice


@pytest.mark.parametrize("tissue", [[], [Polygon()], [Polygon([(0, 0), (10, 0), (20, 0)])]])
@pytest.mark.parametrize("min_proportion", [0.0, 0.5])
def test_no_tissue_keeps_nothing(tissue, min_proportion):
    selected = select_on_tissue(np.array([[0, 0], [5, 0]]), 10, tissue, min_proportion=min_proportion, simplify_px=2)
    assert selected.tolist() == [False, False]


def test_blocks_of_patches_join_without_a_seam(monkeypatch):
    corners = PatchGeometry(100, 0, 20, 40, 8000, 5000).corners()
    whole = select_on_tissue(corners, 200, TISSUE, min_proportion=0.4, simplify_px=25)
    monkeypatch.setattr("trident.patching.tissue._BLOCK", 77)
    np.testing.assert_array_equal(select_on_tissue(corners, 200, TISSUE, min_proportion=0.4, simplify_px=25), whole)


def test_no_candidates():
    none = np.empty((0, 2), np.int64)
    assert select_on_tissue(none, 10, TISSUE, min_proportion=0.5, simplify_px=2).shape == (0,)


@pytest.mark.parametrize("share", [-0.1, 1.01, math.nan])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(SettingsError, match="--min_tissue_proportion"):
        select_on_tissue(np.array([[0, 0]]), 10, TISSUE, min_proportion=share, simplify_px=0)


def test_ten_thousand_patches_take_a_moment(count_steps):
    """Measured at 0.05 s; what is counted does not depend on the machine, and a loop over patches would show."""
    tissue = [blob(20_000, 15_000, 9_000, 4000), blob(38_000, 18_000, 6_000, 4000, seed=3)]
    geometry = PatchGeometry(256, 64, 20, 40, 50_000, 36_000)
    corners = geometry.corners()
    assert len(corners) > 10_000
    steps = count_steps(
        lambda: select_on_tissue(corners, geometry.side_level0_px, tissue, min_proportion=0.5, simplify_px=64)
    )
    assert steps < len(corners)
