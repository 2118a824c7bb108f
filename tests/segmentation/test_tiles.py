"""Where tiles lie and how their decisions become a mask, in numbers."""

from __future__ import annotations

import numpy as np
import pytest

from trident.segmentation.tiles import TileGrid


@pytest.mark.parametrize(
    ("slide_size", "level0_mag", "mag", "step", "per_px", "shape"),
    [
        ((35544, 28536), 40, 10, 2048, 4.0, (7134, 8886)),
        ((35545, 28537), 40, 10, 2048, 4.0, (7135, 8887)),  # the last pixels are partly beyond the slide
        ((35544, 28536), 40, 1, 20480, 40.0, (714, 889)),
        ((3000, 2000), 20, 10, 1024, 2.0, (1000, 1500)),
        ((3000, 2000), 60, 10, 3072, 6.0, (334, 500)),
        ((3000, 2000), 10, 10, 512, 1.0, (2000, 3000)),
        ((300, 201), 5, 10, 256, 0.5, (402, 600)),
        ((300, 200), 5, 1, 2560, 5.0, (40, 60)),
        ((1, 1), 40, 1, 20480, 40.0, (1, 1)),
    ],
)
def test_geometry(
    slide_size: tuple[int, int],
    level0_mag: float,
    mag: float,
    step: int,
    per_px: float,
    shape: tuple[int, int],
) -> None:
    grid = TileGrid.over(slide_size, level0_mag, mag)
    assert grid.reduction == 1
    assert grid.geometry.step_level0_px == step
    assert grid.level0_per_mask_px == per_px
    assert grid.mask_shape == shape == grid.empty_mask().shape
    mask = grid.tissue_mask(grid.empty_mask())
    assert (mask.downsample_x, mask.downsample_y) == (per_px, per_px)
    columns, rows = (-(-side // step) for side in slide_size)
    assert len(grid.geometry.corners()) == columns * rows


def test_tiles_are_assembled_in_their_places() -> None:
    grid = TileGrid.over((1300, 1100), 10, 10)
    truth = np.random.default_rng(0).random((1536, 1536)) > 0.5
    mask = grid.empty_mask()
    for x, y in grid.geometry.corners()[::-1]:
        grid.paste(mask, np.array([x, y]), truth[y : y + 512, x : x + 512])
    np.testing.assert_array_equal(mask, truth[:1100, :1300])


def test_a_huge_slide_gets_a_coarser_mask() -> None:
    grid = TileGrid.over((400_000, 300_000), 40, 10)
    assert grid.reduction == 16
    assert grid.mask_shape == (4688, 6250)
    assert grid.level0_per_mask_px == 64
    assert TileGrid.over((400_000, 300_000), 40, 10, max_mask_px=10).reduction == 512, "a tile stays a whole pixel"


def test_coarser_masks_go_by_the_majority() -> None:
    grid = TileGrid.over((1024, 1024), 10, 10, max_mask_px=256 * 256)
    assert (grid.reduction, grid.mask_shape) == (4, (256, 256))
    tile = np.zeros((512, 512), np.bool_)
    tile[0:2, 0:4] = True  # half of the first block
    tile[4:5, 4:8] = tile[5, 4:7] = True  # seven of sixteen
    tile[508:512, 508:512] = True
    mask = grid.empty_mask()
    grid.paste(mask, np.array([512, 512]), tile)
    assert np.argwhere(mask).tolist() == [[128, 128], [255, 255]]


def test_tiles_that_have_something() -> None:
    grid = TileGrid.over((1300, 1100), 10, 10)
    mask = grid.empty_mask()
    assert grid.with_any(mask).shape == (0, 2)
    mask[511, 512] = mask[1099, 1299] = True
    assert grid.with_any(mask).tolist() == [[512, 0], [1024, 1024]]
