"""Tiles through a network that tells classes by colour, so that every mask can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trident.errors import MissingMppError, UnreadableSlideError, WeightsError
from trident.segmentation.registry import segment_tissue
from trident.segmentation.spec import GRANDQC, GRANDQC_ARTIFACT, HEST

TISSUE, GLASS = (200, 80, 150), (40, 244, 244)
"""`hest`'s class 1 is the redder half."""


def _slide_with(
    make: Callable[..., object], size: tuple[int, int], regions: list[tuple[int, int, int, int]], **options: object
) -> object:
    """A slide of `size` (width, height) with tissue in regions (left, top, right, bottom) of level 0."""
    level0 = np.empty((size[1], size[0], 3), np.uint8)
    level0[:] = GLASS
    for left, top, right, bottom in regions:
        level0[top:bottom, left:right] = TISSUE
    return make(level0, **options)


def _mask_of(shape: tuple[int, int], regions: list[tuple[int, int, int, int]], level0_per_px: float) -> np.ndarray:
    mask = np.zeros(shape, np.bool_)
    for region in regions:
        left, top, right, bottom = (round(side / level0_per_px) for side in region)
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("mpp", "downsamples", "size", "per_px", "regions"),
    [
        # 40x: read from the level at 10x as it is; over the seams of tiles at 2048, and at the slide's far corner
        (0.25, (1, 4), (4800, 2400), 4, [(1600, 800, 3200, 2360), (4000, 0, 4800, 400), (0, 2396, 4, 2400)]),
        (0.25, (1,), (2400, 2400), 4, [(400, 400, 2200, 2120)]),  # the same from level 0, shrunk fourfold
        (0.5, (1,), (2600, 1100), 2, [(1000, 20, 1060, 1100), (2200, 0, 2600, 300)]),  # 20x
        (1.0, (1,), (1300, 700), 1, [(1, 1, 2, 2), (500, 500, 1300, 700)]),  # 10x: pixel for pixel
        (0.18, (1, 4), (4800, 3600), 6, [(1200, 600, 3600, 3240)]),  # 60x: a level of 15x, shrunk by 1.5
        (2.0, (1,), (700, 500), 0.5, [(100, 100, 400, 300)]),  # 5x: enlarged twofold
    ],
)
def test_regions_land_where_they_are(
    pyramid_slide: Callable[..., object],
    make_segmenter: Callable[..., object],
    mpp: float,
    downsamples: tuple[int, ...],
    size: tuple[int, int],
    per_px: float,
    regions: list[tuple[int, int, int, int]],
) -> None:
    slide = _slide_with(pyramid_slide, size, regions, downsamples=downsamples, mpp=mpp)
    found = make_segmenter(HEST).segment(slide)
    assert (found.downsample_x, found.downsample_y) == (per_px, per_px)
    shape = (int(size[1] / per_px), int(size[0] / per_px))
    np.testing.assert_array_equal(found.mask, _mask_of(shape, regions, per_px))


@pytest.mark.parametrize("downsamples", [(1,), (1, 4, 16)])
def test_one_fold(
    pyramid_slide: Callable[..., object], make_segmenter: Callable[..., object], downsamples: tuple[int, ...]
) -> None:
    """GrandQC's class 0, tissue, is the less red half here; JPEG blurs what lies at an edge."""
    width, height = 21_600, 640
    level0 = np.full((height, width, 3), 235, np.uint8)
    level0[80:560, 4000:21_200] = (60, 90, 60)
    slide = pyramid_slide(level0, downsamples=downsamples, mpp=0.25)
    found = make_segmenter(GRANDQC).segment(slide)
    assert found.mask.shape == (16, 540)
    assert found.downsample_x == 40
    expected = _mask_of((16, 540), [(4000, 80, 21_200, 560)], 40)
    wrong = found.mask != expected
    assert wrong.mean() < 0.02
    inner = _mask_of((16, 540), [(4080, 160, 21_120, 480)], 40)
    outer = _mask_of((16, 540), [(3920, 0, 21_280, 640)], 40)
    assert not (wrong & (inner | ~outer)).any()
    assert max(max(width_px, height_px) for _, width_px, height_px in slide.reads) <= 2400


def test_batches_and_threads_change_nothing(
    pyramid_slide: Callable[..., object], make_segmenter: Callable[..., object]
) -> None:
    level0 = np.random.default_rng(0).integers(0, 256, (1500, 2100, 3), dtype=np.uint8)
    slide = pyramid_slide(level0, mpp=1.0)
    expected = level0[..., 0] >= 128
    for batch_size, workers in ((1, 0), (5, 0), (64, 3), (4, None)):
        segmenter = make_segmenter(HEST, batch_size=batch_size, max_workers=workers)
        seen: list[tuple[int, int]] = []
        mask = segmenter.segment(slide, lambda done, total, seen=seen: seen.append((done, total))).mask
        np.testing.assert_array_equal(mask, expected)
        tile = segmenter.eval_transforms(Image.fromarray(level0[:512, :512])).unsqueeze(0)
        np.testing.assert_array_equal(segmenter(tile).numpy(), expected[None, :512, :512].astype(np.uint8))
        segmenter.model.batches.pop()
        assert set(segmenter.model.batches) == {1}, "a CPU holds the activations of one tile a thread"
        assert sum(segmenter.model.batches) == 15
        assert seen[-1] == (15, 15)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_from_a_slide_to_outlines(pyramid_slide: Callable[..., object], make_segmenter: Callable[..., object]) -> None:
    regions = [(400, 400, 2800, 2000)]
    slide = _slide_with(pyramid_slide, (4000, 2400), regions, mpp=0.25)
    (outline,) = segment_tissue(slide, make_segmenter(HEST))
    assert outline.bounds == pytest.approx((400, 400, 2800, 2000), abs=8)
    assert outline.area == pytest.approx(2400 * 1600, rel=0.02)
    empty = _slide_with(pyramid_slide, (4000, 2400), [], mpp=0.25)
    assert segment_tissue(empty, make_segmenter(HEST)) == []


def test_threshold_reaches_the_decision(
    pyramid_slide: Callable[..., object], make_segmenter: Callable[..., object]
) -> None:
    class Unsure(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            odds = torch.tensor([0.4, 0.6]).log()
            return odds.view(1, 2, 1, 1).expand(len(batch), 2, *batch.shape[2:])

    slide = _slide_with(pyramid_slide, (300, 200), [], mpp=1.0)
    for threshold, kept in ((0.5, True), (0.59, True), (0.61, False)):
        mask = make_segmenter(HEST, Unsure(), confidence_thresh=threshold).segment(slide).mask
        assert mask.shape == (200, 300)
        assert bool(mask.all()) is kept
        assert bool(mask.any()) is kept


def test_a_network_that_gives_nan_is_an_error(
    pyramid_slide: Callable[..., object], make_segmenter: Callable[..., object]
) -> None:
    class Broken(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(batch), 2, *batch.shape[2:])
            logits[:, 0, 100, 100] = torch.nan
            return logits

    slide = _slide_with(pyramid_slide, (300, 200), [], mpp=1.0)
    with pytest.raises(WeightsError, match="hest gave NaN"):
        make_segmenter(HEST, Broken()).segment(slide)


def test_unknown_resolution(pyramid_slide: Callable[..., object], make_segmenter: Callable[..., object]) -> None:
    with pytest.raises(MissingMppError, match="custom_list_of_wsis"):
        make_segmenter(HEST).segment(_slide_with(pyramid_slide, (300, 200), [], mpp=None))


@pytest.fixture
def damaged_slide(pyramid_slide: Callable[..., type], monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Function (size, x, y): a slide full of tissue at 5x, of whose tiles the one at (x, y) does not decode."""

    def make(size: tuple[int, int], x: int, y: int) -> object:
        slide = _slide_with(pyramid_slide, size, [(0, 0, *size)], mpp=2.0)
        read = slide.read_region

        def read_region(location: tuple[int, int], level: int, part: tuple[int, int]) -> np.ndarray:
            if location == (x, y):
                raise UnreadableSlideError(slide.path, "a tile does not decode")
            return read(location, level, part)

        monkeypatch.setattr(slide, "read_region", read_region)
        return slide

    return make


def test_one_damaged_tile_in_a_hundred_is_noted_and_no_tissue(
    damaged_slide: Callable[..., object], make_segmenter: Callable[..., object]
) -> None:
    slide = damaged_slide((2560, 2560), 512, 256)
    mask = make_segmenter(HEST).segment(slide).mask
    expected = np.ones((5120, 5120), np.bool_)
    expected[512:1024, 1024:1536] = False
    np.testing.assert_array_equal(mask, expected)
    assert slide.notes == ["1 of 100 tiles did not decode for hest; no tissue there"]


def test_more_damage_is_an_error(damaged_slide: Callable[..., object], make_segmenter: Callable[..., object]) -> None:
    with pytest.raises(UnreadableSlideError, match="1 of 6 patches do not decode"):
        make_segmenter(HEST).segment(damaged_slide((700, 500), 256, 0))


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        (
            HEST,
            {"confidence_thresh": 0.4},
            {"segmenter": "hest", "segmenter_magnification": 10, "seg_conf_thresh": 0.4},
        ),
        (GRANDQC, {}, {"segmenter": "grandqc", "segmenter_magnification": 1, "seg_conf_thresh": 0.5}),
        (
            GRANDQC_ARTIFACT,
            {"remove_penmarks_only": True},
            {"segmenter": "grandqc_artifact", "segmenter_magnification": 10, "remove_penmarks_only": True},
        ),
    ],
)
def test_recipe_says_what_shapes_the_mask(
    make_segmenter: Callable[..., object], spec: object, options: dict, expected: dict
) -> None:
    segmenter = make_segmenter(spec, weights_sha256="abc", **options)
    assert segmenter.recipe_settings() == {**expected, "segmenter_weights_sha256": "abc"}
    assert segmenter.recipe_facts() == {"device": "cpu", "precision": "float32"}
    assert segmenter.target_mag == spec.magnification
    assert segmenter.input_size == 512


def test_precision_is_the_declared_one(make_segmenter: Callable[..., object]) -> None:
    assert [make_segmenter(spec).precision for spec in (HEST, GRANDQC, GRANDQC_ARTIFACT)] == [
        torch.float16,
        torch.float16,
        torch.float32,
    ]
    assert make_segmenter(replace(HEST, precision="float32")).precision == torch.float32


def test_moving_to_a_device(make_segmenter: Callable[..., object]) -> None:
    segmenter = make_segmenter(HEST, nn.Conv2d(3, 2, 1))
    assert segmenter.to("meta") is segmenter
    assert segmenter.device == torch.device("meta")
    assert segmenter.model.weight.device.type == "meta"
