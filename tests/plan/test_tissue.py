"""The quick estimate of patches, against the patches that the stages really keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trident.demo import draw_demo_slide
from trident.plan import tissue
from trident.segmentation.otsu import OtsuSegmenter
from trident.segmentation.registry import segment_tissue
from trident.slides.base import Slide
from trident.slides.registry import open_slide
from trident.stages.coords import GridOptions

TOLERANCE = 0.05
"""Largest error of the estimate where the image is smaller than the segmenter's own; otherwise there is none."""


@contextmanager
def _opened(path: Path, mpp: float | None = None) -> Iterator[Slide]:
    with open_slide(path, reader_type="openslide", mpp=mpp) as slide:
        yield slide


def _counts(slide: Slide, grid: GridOptions) -> tuple[int, int]:
    """(estimated, real)"""
    real = segment_tissue(slide, OtsuSegmenter())
    rough = tissue.rough_outlines(slide, cut_holes=False)
    return len(tissue.patches_on(slide, grid, rough).corners), len(tissue.patches_on(slide, grid, real).corners)


@pytest.mark.parametrize(("name", "mpp"), [("CMU-1-Small-Region.svs", None), ("TCGA-CR-7395-no-mpp.svs", 2.0)])
@pytest.mark.parametrize("side_px", [2048, 128])
def test_on_real_slides(
    name: str, mpp: float | None, side_px: int, shared_slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tissue, "_MAX_SIDE_PX", side_px)
    with _opened(shared_slides / name, mpp) as slide:
        for size_px in (128, 256):
            estimated, real = _counts(slide, GridOptions(None, size_px, target_mpp=2 * slide.mpp))
            assert real > 5
            assert abs(estimated - real) <= (TOLERANCE * real if side_px < 2048 else 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_on_drawn_slides(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_demo_slide(tmp_path / "a.svs", seed=seed, width_px=1536, height_px=1024, mpp=1.0)
    for side_px in (2048, 128):  # the segmenter's own image is 192 px wide
        monkeypatch.setattr(tissue, "_MAX_SIDE_PX", side_px)
        with _opened(tmp_path / "a.svs") as slide:
            estimated, real = _counts(slide, GridOptions(10, 48))
            assert real > 100
            assert abs(estimated - real) <= (TOLERANCE * real if side_px < 2048 else 0)


def test_glass_has_no_patches(tmp_path: Path) -> None:
    import numpy as np

    from trident.demo.svs import write_svs

    write_svs(tmp_path / "a.svs", np.full((600, 800, 3), 244, np.uint8), mpp=0.5, magnification=20)
    with _opened(tmp_path / "a.svs") as slide:
        assert _counts(slide, GridOptions(20, 64)) == (0, 0)
