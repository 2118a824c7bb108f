from __future__ import annotations

import numpy as np
import pytest

from trident.errors import StoreError
from trident.patching.grid import PatchGeometry, ReadPlan, plan_read
from trident.patching.legacy import geometry_from_attributes, plan_from_attributes
from trident.patching.reader import PatchReader

GRID = {
    "patch_size": np.int64(64),
    "patch_size_level0": np.int64(128),
    "level0_magnification": np.int64(40),
    "target_magnification": np.int64(20),
    "overlap": np.int64(16),
    "name": "array",
    "savetodir": "/job/20x_64px_16px_overlap",
    "level0_width": np.int64(700),
    "level0_height": np.int64(500),
}
CLAM = {
    "patch_size": np.int64(64),
    "patch_level": np.int64(1),
    "downsample": np.array([4.0, 4.0]),
    "level_dim": np.array([175, 125]),
    "name": "array",
    "save_path": "/clam/patches",
}


def test_a_grids_attributes_give_the_grid_back(array_slide):
    geometry = PatchGeometry(64, 16, 20.0, 40, 700, 500)
    slide = array_slide(downsamples=(1, 4))
    assert geometry_from_attributes(geometry.attributes("array", "d"), slide) == geometry
    assert geometry_from_attributes(GRID, slide) == geometry


def test_a_grid_file_is_carried_on_with_every_single_value(array_slide):
    slide = array_slide()
    plan, attributes = plan_from_attributes({**GRID, "site": b"Leeds", "matrix": np.eye(2)}, slide)
    assert plan == plan_read(PatchGeometry(64, 16, 20.0, 40, 700, 500), slide.level_downsamples)
    assert attributes == {**{key: getattr(v, "item", lambda v=v: v)() for key, v in GRID.items()}, "site": "Leeds"}
    assert {type(value) for value in attributes.values()} == {int, str}


def test_a_grid_by_resolution_comes_back_exactly(array_slide):
    slide = array_slide(downsamples=(1, 4), mpp=0.2528)
    geometry = PatchGeometry.at_mpp(
        patch_size_px=64,
        overlap_px=16,
        target_mpp=1.1,
        level0_mpp=0.2528,
        level0_magnification=40,
        level0_width_px=700,
        level0_height_px=500,
    )
    attributes = geometry.attributes("array", "d")
    assert geometry_from_attributes(attributes, slide) == geometry
    plan, carried = plan_from_attributes(attributes, slide)
    # d = 1.1 / 0.2528 = 4.3513: the level of 4 is read, a square of round(278 / 4) px
    assert plan == ReadPlan(level=1, read_px=70, patch_size_px=64)
    assert carried == attributes
    only_magnifications = {key: value for key, value in attributes.items() if not key.endswith("_mpp")}
    assert plan_from_attributes(only_magnifications, slide).plan == plan


def test_only_three_attributes_of_a_grid_are_needed(array_slide):
    few = {key: GRID[key] for key in ("patch_size", "level0_magnification", "target_magnification")}
    stored = plan_from_attributes(few, array_slide(mpp=None))
    assert stored.plan == ReadPlan(0, 128, 64)
    assert stored.patch_size_level0 == 128
    assert (stored.attributes["overlap"], stored.attributes["name"]) == (0, "array")
    assert (stored.attributes["level0_width"], stored.attributes["level0_height"]) == (700, 500)


def test_the_files_own_magnification_wins_over_the_slides(array_slide):
    plan, _ = plan_from_attributes({**GRID, "level0_magnification": 20, "patch_size_level0": 64}, array_slide(mpp=0.25))
    assert plan == ReadPlan(0, 64, 64)


@pytest.mark.parametrize(
    ("changes", "downsamples", "covers", "plan", "target"),
    [
        ({}, (1, 4), 256, ReadPlan(1, 64, 64), 10),
        ({"patch_level": 0}, (1, 4), 64, ReadPlan(0, 64, 64), 40),
        ({"patch_level": 0, "custom_downsample": 2}, (1, 4), 128, ReadPlan(0, 128, 64), 20),
        ({"custom_downsample": np.array([2])}, (1, 4, 8), 512, ReadPlan(2, 64, 64), 5),
        ({"custom_downsample": 2}, (1, 4), 512, ReadPlan(1, 128, 64), 5),
    ],
)
def test_clam_coordinates(array_slide, changes, downsamples, covers, plan, target):
    stored = plan_from_attributes({**CLAM, **changes}, array_slide(downsamples=downsamples))
    assert stored.plan == plan
    assert stored.patch_size_level0 == covers
    expected = {
        "patch_size": 64,
        "level0_magnification": 40,
        "target_magnification": target,
        "name": "array",
        "savetodir": "/clam/patches",
        "level0_width": 700,
        "level0_height": 500,
    }
    assert {key: stored.attributes[key] for key in expected} == expected


def test_clam_pixels_are_the_levels_own(array_slide):
    slide = array_slide(downsamples=(1, 4))
    plan, _ = plan_from_attributes(CLAM, slide)
    np.testing.assert_array_equal(PatchReader(slide, plan).read(40, 80), slide.levels[1][20:84, 10:74])


def test_clam_with_a_fractional_level_downsample(array_slide):
    slide = array_slide(downsamples=(1, 4))
    slide.level_downsamples = (1.0, 4.0001)
    stored = plan_from_attributes(CLAM, slide)
    assert stored.plan == ReadPlan(1, 64, 64)
    assert stored.patch_size_level0 == 256
    assert stored.attributes["target_magnification"] == 10
    assert type(stored.attributes["target_magnification"]) is int


def test_clam_needs_no_magnification(array_slide):
    stored = plan_from_attributes(CLAM, array_slide(downsamples=(1, 4), mpp=None))
    assert stored.patch_size_level0 == 256
    assert "target_magnification" not in stored.attributes


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "patch_size, level0_magnification, target_magnification"),
        ({"patch_size": 64}, "level0_magnification, target_magnification"),
        ({key: value for key, value in GRID.items() if key != "target_magnification"}, "target_magnification"),
        ({"patch_level": 0}, "lacks the attributes patch_size,"),
        ({**GRID, "patch_size": 0}, "--patch_size"),
        ({**GRID, "patch_size": 63.5}, "patch_size.*not a whole number"),
        ({**GRID, "overlap": 64}, "--overlap"),
        ({**GRID, "target_magnification": "20x"}, "target_magnification.*not a number"),
        ({**GRID, "level0_magnification": np.nan}, "level0_magnification.*not a number"),
        ({**GRID, "level0_magnification": np.array([40, 20])}, "level0_magnification.*not a number"),
        ({**GRID, "level0_width": 701}, "701 x 500 px.*700 x 500 px"),
        ({**GRID, "target_mpp": 0.5, "level0_mpp": "fine"}, "level0_mpp.*not a number"),
        ({**GRID, "target_mpp": -0.5, "level0_mpp": 0.25}, "make no patch grid: the target resolution is -0.5"),
        ({**CLAM, "patch_level": 2}, "level 2.*has 2 levels"),
        ({**CLAM, "patch_level": -1}, "level -1"),
        ({**CLAM, "patch_size": -64}, "must both be positive"),
        ({**CLAM, "custom_downsample": 0}, "must both be positive"),
        ({**CLAM, "patch_level": "one"}, "patch_level.*not a number"),
        ({**CLAM, "patch_level": None}, "patch_level.*not a number"),
    ],
)
def test_unusable_attributes_name_the_file_and_the_attribute(array_slide, attributes, words):
    with pytest.raises(StoreError, match=rf"^/job/x_patches\.h5: .*{words}"):
        plan_from_attributes(attributes, array_slide(downsamples=(1, 4)), source="/job/x_patches.h5")


def test_geometry_of_a_clam_file_names_what_is_missing(array_slide):
    with pytest.raises(StoreError, match="level0_magnification, target_magnification"):
        geometry_from_attributes(CLAM, array_slide())
