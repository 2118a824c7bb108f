"""Grids by µm/px, against the formulas of the output contract with d = target µm/px / level-0 µm/px."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trident.errors import SettingsError
from trident.patching.grid import PatchGeometry, ReadPlan, plan_read

GOOD = {
    "patch_size_px": 256,
    "overlap_px": 64,
    "target_mpp": 0.5,
    "level0_mpp": 0.2528,
    "level0_magnification": 40,
    "level0_width_px": 5000,
    "level0_height_px": 3000,
}


def _nearest(value: Fraction) -> int:
    """Python's round() on exact numbers: to the nearest, halves to the even one."""
    return round(value)


def test_by_hand() -> None:
    geometry = PatchGeometry.at_mpp(**GOOD)
    # d = 0.5 / 0.2528 = 1.97785: 256 d = 506.33, 64 d = 126.58
    assert (geometry.side_level0_px, geometry.patch_size_level0, geometry.step_level0_px) == (506, 506, 506 - 127)
    assert plan_read(geometry, (1.0, 4.0)) == ReadPlan(level=0, read_px=506, patch_size_px=256)
    # The rounded magnification (40x) would have taken 512 level-0 px for the same patch: 259 µm instead of 128 * 2.
    assert PatchGeometry(256, 64, 20, 40, 5000, 3000).side_level0_px == 512
    xs = np.unique(geometry.corners()[:, 0])
    assert xs.tolist() == list(range(0, 5000, 379))


def test_attributes_add_the_resolutions_and_stay_readable_by_magnification() -> None:
    geometry = PatchGeometry.at_mpp(**GOOD)
    attributes = geometry.attributes("s", "/job/0.5mpp_256px_64px_overlap")
    target_magnification = attributes.pop("target_magnification")
    assert attributes == {
        "patch_size": 256,
        "patch_size_level0": 506,
        "level0_magnification": 40,
        "overlap": 64,
        "name": "s",
        "savetodir": "/job/0.5mpp_256px_64px_overlap",
        "level0_width": 5000,
        "level0_height": 3000,
        "target_mpp": 0.5,
        "level0_mpp": 0.2528,
    }
    # What a reader makes of the magnifications alone is the same scale.
    assert 40 / float(target_magnification) == pytest.approx(0.5 / 0.2528, rel=1e-12)


def test_a_grid_by_magnification_says_nothing_of_resolutions() -> None:
    attributes = PatchGeometry(256, 0, 20, 40, 5000, 3000).attributes("s", "d")
    assert not {"target_mpp", "level0_mpp"} & set(attributes)


@given(
    patch_size=st.integers(1, 600),
    overlap_share=st.floats(0, 0.9),
    target=st.integers(50, 5000),
    level0=st.integers(100, 2399),
    size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
)
def test_grid_against_exact_fractions(
    patch_size: int, overlap_share: float, target: int, level0: int, size: tuple[int, int]
) -> None:
    overlap = int(overlap_share * patch_size)
    exact = Fraction(target, level0)  # both in nm/px
    # On a tie the rounding of the division may fall on either side.
    assume(all((2 * length * exact).denominator != 1 for length in (patch_size, overlap) if length))
    side = _nearest(patch_size * exact)
    step = side - _nearest(overlap * exact)
    options = {**GOOD, "patch_size_px": patch_size, "overlap_px": overlap, "target_mpp": target / 1000}
    options |= {"level0_mpp": level0 / 1000, "level0_width_px": size[0], "level0_height_px": size[1]}
    if step < 1:
        with pytest.raises(SettingsError, match=r"µm/px would advance by less than one pixel.*larger --target_mpp"):
            PatchGeometry.at_mpp(**options)
        return
    geometry = PatchGeometry.at_mpp(**options)
    assert geometry.patch_size_level0 == geometry.side_level0_px == side
    assert geometry.step_level0_px == step
    assume(step >= 20)
    expected = [(x, y) for y in range(0, size[1], step) for x in range(0, size[0], step)]
    assert [tuple(corner) for corner in geometry.corners().tolist()] == expected
    if not overlap:  # slide encoders count positions in whole patches: no two patches may share one
        assert len(np.unique(geometry.corners() // geometry.patch_size_level0, axis=0)) == len(expected)


@pytest.mark.parametrize(
    ("target", "level0", "downsamples", "level", "read"),
    [
        (0.5, 0.25, (1.0, 4.0), 0, 512),
        (0.5, 0.499, (1.0, 4.0), 0, 257),  # 256 * 1.002 = 256.5
        (1.0, 0.2528, (1.0, 4.0001), 1, 253),  # d = 3.956 lies within 0.1 of the level; 1013 / 4 = 253.25
        (0.9, 0.25, (1.0, 4.0001), 0, 922),  # d = 3.6: the level of 4 is too coarse
        (1.1, 0.25, (1.0, 4.0001, 16.0), 1, 282),  # 1126 / 4 = 281.5, and halves go to the even number
        (0.25, 0.5, (1.0, 4.0), 0, 128),
    ],
)
def test_read_plans(target: float, level0: float, downsamples: tuple[float, ...], level: int, read: int) -> None:
    geometry = PatchGeometry.at_mpp(**{**GOOD, "target_mpp": target, "level0_mpp": level0})
    assert plan_read(geometry, downsamples) == ReadPlan(level, read, 256)


@pytest.mark.parametrize("key", ["target_mpp", "level0_mpp"])
@pytest.mark.parametrize("value", [0.0, -0.5, math.nan, math.inf])
def test_resolutions_must_be_positive(key: str, value: float) -> None:
    with pytest.raises(SettingsError, match=r"resolution is .* µm/px; give a positive number, e\.g\. --target_mpp"):
        PatchGeometry.at_mpp(**{**GOOD, key: value})


def test_one_resolution_alone_is_no_grid() -> None:
    with pytest.raises(SettingsError, match="needs both"):
        PatchGeometry(256, 0, 20, 40, 5000, 3000, target_mpp=0.5)
