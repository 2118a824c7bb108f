"""The transform of a tile against OpenCV's codec and plain numpy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trident.demo.slide import render_demo_slide
from trident.segmentation.spec import GRANDQC, GRANDQC_ARTIFACT, HEST, SPECS, SegmentationModelSpec
from trident.segmentation.tile_transform import SwappedJpeg, tile_transform


def _through_opencv(rgb: np.ndarray, quality: int) -> np.ndarray:
    """What happens to an RGB array that is handed to a codec which takes it for BGR."""
    _, encoded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


@pytest.mark.parametrize(("size", "quality"), [((512, 512), 80), ((511, 333), 80), ((512, 512), 50)])
def test_swapped_jpeg_is_opencv_on_rgb(size: tuple[int, int], quality: int) -> None:
    rgb = render_demo_slide(seed=5, width_px=size[0], height_px=size[1])
    got = np.asarray(SwappedJpeg(quality)(Image.fromarray(rgb)))
    np.testing.assert_array_equal(got, _through_opencv(rgb, quality))
    in_order = np.ascontiguousarray(_through_opencv(np.ascontiguousarray(rgb[..., ::-1]), quality)[..., ::-1])
    assert np.abs(got.astype(int) - in_order).max() > 4, "the order of the channels makes no difference here"


def test_swapped_jpeg_on_real_tissue(shared_reference: Path) -> None:
    image = Image.open(shared_reference / "patch512.png").convert("RGB")
    np.testing.assert_array_equal(np.asarray(SwappedJpeg(80)(image)), _through_opencv(np.asarray(image), 80))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_transform_is_scaling_and_imagenet(spec: SegmentationModelSpec) -> None:
    rgb = render_demo_slide(seed=1, width_px=512, height_px=512)
    got = tile_transform(spec)(Image.fromarray(rgb)).numpy()
    pixels = _through_opencv(rgb, 80) if spec is GRANDQC else rgb
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((pixels / 255 - mean) / std).transpose(2, 0, 1)
    assert got.shape == (3, 512, 512)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_only_the_tissue_model_of_grandqc_sees_jpeg() -> None:
    assert [spec.jpeg_quality for spec in (HEST, GRANDQC, GRANDQC_ARTIFACT)] == [None, 80, None]
