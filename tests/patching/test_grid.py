from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trident.errors import SettingsError
from trident.patching.grid import PatchGeometry, ReadPlan, best_level, plan_read, plan_read_at

GOOD = PatchGeometry(
    patch_size_px=256,
    overlap_px=0,
    target_magnification=20.0,
    level0_magnification=40,
    level0_width_px=10_000,
    level0_height_px=7_000,
)


@pytest.mark.parametrize(
    ("patch_size", "overlap", "target", "level0", "downsample", "stated", "side", "step"),
    [
        (256, 0, 20, 40, 2.0, 512, 512, 512),
        (256, 64, 20, 40, 2.0, 512, 512, 384),
        (512, 0, 2.5, 40, 16.0, 8192, 8192, 8192),
        (512, 128, 1.25, 20, 16.0, 8192, 8192, 6144),
        (256, 0, 20, 10, 0.5, 128, 128, 128),
        (255, 1, 20, 10, 0.5, 127, 128, 128),  # halves go to the even neighbour: 127.5 -> 128, 0.5 -> 0
        (256, 0, 15, 40, 40 / 15, 682, 683, 683),
        (224, 32, 20, 60, 3.0, 672, 672, 576),
        (1, 0, 5, 5, 1.0, 1, 1, 1),
    ],
)
def test_lengths(patch_size, overlap, target, level0, downsample, stated, side, step):
    geometry = PatchGeometry(patch_size, overlap, target, level0, 50_000, 40_000)
    assert geometry.downsample == pytest.approx(downsample)
    assert (geometry.patch_size_level0, geometry.side_level0_px, geometry.step_level0_px) == (stated, side, step)
    assert geometry.simplify_level0_px == patch_size / 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size_px": 0}, "--patch_size"),
        ({"patch_size_px": -256}, "--patch_size"),
        ({"overlap_px": -1}, "--overlap"),
        ({"overlap_px": 256}, "--overlap"),
        ({"overlap_px": 300}, "--overlap"),
        ({"target_magnification": 0.0}, "target magnification"),
        ({"target_magnification": -20.0}, "target magnification"),
        ({"target_magnification": math.nan}, "target magnification"),
        ({"target_magnification": math.inf}, "target magnification"),
        ({"level0_magnification": 0}, "level-0 magnification"),
        ({"level0_width_px": 0}, "no pixels"),
        ({"level0_height_px": -5}, "no pixels"),
        ({"patch_size_px": 2, "overlap_px": 1, "target_magnification": 160.0}, "less than one pixel"),
        ({"patch_size_px": 1, "target_magnification": 100.0}, "less than one pixel"),
    ],
)
def test_impossible_grids_are_refused(changes, words):
    with pytest.raises(SettingsError, match=words):
        dataclasses.replace(GOOD, **changes)


def test_corners_run_row_by_row_and_end_inside_the_slide():
    geometry = PatchGeometry(256, 64, 20.0, 40, 1000, 800)
    expected = [(x, y) for y in range(0, 800, 384) for x in range(0, 1000, 384)]
    corners = geometry.corners()
    assert corners.dtype == np.int64
    assert [tuple(corner) for corner in corners.tolist()] == expected


@pytest.mark.parametrize(
    ("width", "height", "n_x", "n_y"), [(512, 512, 1, 1), (513, 512, 2, 1), (1, 1, 1, 1), (1024, 1025, 2, 3)]
)
def test_a_corner_on_the_last_pixel_counts_and_one_beyond_does_not(width, height, n_x, n_y):
    corners = PatchGeometry(256, 0, 20.0, 40, width, height).corners()
    assert len(corners) == n_x * n_y
    assert len(np.unique(corners[:, 0])) == n_x
    assert len(np.unique(corners[:, 1])) == n_y


@given(
    patch_size=st.integers(60, 600),
    overlap=st.integers(0, 59),
    target=st.sampled_from([1.25, 2.5, 5.0, 7.0, 10.0, 20.0, 33.0, 40.0]),
    level0=st.sampled_from([5, 10, 20, 40, 60, 80]),
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
)
@settings(max_examples=100, deadline=None)
def test_the_grid_covers_the_slide_at_equal_steps(patch_size, overlap, target, level0, width, height):
    try:
        geometry = PatchGeometry(patch_size, overlap, target, level0, width, height)
    except SettingsError:
        assert round(patch_size * level0 / target) - round(overlap * level0 / target) < 1
        return
    assume(geometry.step_level0_px >= 20)
    corners = geometry.corners()
    xs, ys = np.unique(corners[:, 0]), np.unique(corners[:, 1])
    assert len(corners) == len(xs) * len(ys) == len(np.unique(corners, axis=0))
    for values, length in ((xs, width), (ys, height)):
        assert values[0] == 0
        assert values[-1] < length <= values[-1] + geometry.step_level0_px
        assert (np.diff(values) == geometry.step_level0_px).all()


def test_a_grid_of_absurdly_many_patches_is_refused_before_memory_is_taken():
    geometry = PatchGeometry(8, 4, 40.0, 40, 100_000, 80_000)
    with pytest.raises(SettingsError, match="500,000,000 candidate patches"):
        geometry.corners()


def test_attributes_are_those_of_the_contract_with_whole_numbers_as_int():
    attributes = dataclasses.replace(GOOD, overlap_px=64, target_magnification=20.0).attributes("slide-1", "/job/grid")
    assert attributes == {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 64,
        "name": "slide-1",
        "savetodir": "/job/grid",
        "level0_width": 10_000,
        "level0_height": 7_000,
    }
    assert all(type(value) in (int, str) for value in attributes.values())
    assert dataclasses.replace(GOOD, target_magnification=2.5).attributes("s", "d")["target_magnification"] == 2.5


APERIO = (1.0, 4.0001, 16.004, 32.02)


@pytest.mark.parametrize(
    ("patch_size", "target", "level0", "downsamples", "level", "read"),
    [
        (256, 20, 40, APERIO, 0, 512),
        (256, 10, 40, APERIO, 1, 256),
        (256, 5, 40, APERIO, 1, 512),
        (256, 2.5, 40, APERIO, 2, 256),
        (512, 1.25, 40, APERIO, 3, 512),
        (256, 40, 40, APERIO, 0, 256),
        (256, 20, 10, APERIO, 0, 128),
        (256, 20, 40, (1.0,), 0, 512),
        (256, 20, 40, (1.0, 2.0005), 1, 256),
        (256, 20, 40, (1.0, 2.11), 0, 512),
        (256, 20, 40, (1.0, 1.99), 1, 512),  # int(1.99) is 1: the level's downsample is cut off, as the contract says
        (100, 15, 40, (1.0, 2.0), 1, 134),  # 266.67 -> 267 -> 133.5 -> 134
        (1, 5, 40, (1.0, 8.0), 1, 1),
    ],
)
def test_read_plans(patch_size, target, level0, downsamples, level, read):
    geometry = PatchGeometry(patch_size, 0, target, level0, 50_000, 50_000)
    assert plan_read(geometry, downsamples) == ReadPlan(level, read, patch_size)


def test_at_least_one_pixel_is_read():
    assert plan_read_at(1, 0.5, (1.0,)).read_px == 1


@given(
    downsample=st.floats(0.1, 64), downsamples=st.lists(st.floats(1.5, 64), max_size=5).map(lambda d: [1.0, *sorted(d)])
)
def test_the_level_is_near_or_the_coarsest_finer_one(downsample, downsamples):
    chosen = downsamples[best_level(downsample, downsamples)]
    if any(abs(candidate - downsample) <= 0.1 for candidate in downsamples):
        assert abs(chosen - downsample) <= 0.1
    elif downsample < 1:
        assert chosen == 1.0
    else:
        assert chosen <= downsample
        assert not any(chosen < candidate <= downsample for candidate in downsamples)
