"""A window of a slide shows the pixels of that part of the slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trident.demo import draw_demo_slide
from trident.plan.window import SlideWindow
from trident.slides.registry import open_slide


def test_window(tmp_path: Path) -> None:
    draw_demo_slide(tmp_path / "a.svs", width_px=1024, height_px=768)
    with open_slide(tmp_path / "a.svs", reader_type="openslide") as slide:
        window = SlideWindow.in_the_middle(slide, 512)
        assert window.dimensions == (512, 512)
        assert window.level_dimensions == ((512, 512), (128, 128))
        assert (window.mpp, window.magnification) == (slide.mpp, slide.magnification)
        for at, level in (((0, 0), 0), ((64, 32), 1), ((-16, 496), 0)):
            whole = slide.read_region((at[0] + 256, at[1] + 128), level, (40, 30))
            np.testing.assert_array_equal(window.read_region(at, level, (40, 30)), whole)
        window.close()
        assert slide.read_region((0, 0), 0, (8, 8)).shape == (8, 8, 3)
        assert SlideWindow.in_the_middle(slide, 10_000).dimensions == slide.dimensions


@pytest.mark.parametrize("side_px", [1, 333])
def test_a_segmenter_sees_a_slide(side_px: int, tmp_path: Path) -> None:
    from trident.segmentation.otsu import OtsuSegmenter

    draw_demo_slide(tmp_path / "a.svs", width_px=1024, height_px=768)
    with open_slide(tmp_path / "a.svs", reader_type="openslide") as slide:
        mask = OtsuSegmenter().segment(SlideWindow.in_the_middle(slide, side_px))
        assert mask.mask.shape == (max(1, round(side_px / 32)),) * 2
