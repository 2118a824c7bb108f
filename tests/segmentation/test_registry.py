from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import shapely

from trident.errors import NotAvailableError, SettingsError
from trident.segmentation.base import Segmenter
from trident.segmentation.registry import (
    SEGMENTER_NAMES,
    check_available,
    segment_tissue,
    segmentation_model_factory,
)
from trident.slides.registry import open_slide


def test_otsu_is_made_and_says_what_shapes_its_mask():
    segmenter = segmentation_model_factory("otsu", confidence_thresh=0.3, device="cpu", batch_size=4)
    assert isinstance(segmenter, Segmenter)
    assert (segmenter.name, segmenter.target_magnification) == ("otsu", 1.25)
    settings = segmenter.recipe_settings()
    assert settings["segmenter"] == "otsu"
    assert settings == segmentation_model_factory("otsu", confidence_thresh=0.9).recipe_settings()


@pytest.mark.parametrize("name", ["hest", "grandqc"])
def test_known_but_missing_segmenters_say_so_in_one_line(name):
    for call in (check_available, segmentation_model_factory):
        with pytest.raises(NotAvailableError, match=f"{name} is not available in this version.*--segmenter otsu") as e:
            call(name)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("otsy", {}, "did you mean otsu"),
        ("", {}, "hest, grandqc, otsu"),
        ("Otsu ", {}, "unknown"),
        ("otsu", {"confidence_thresh": 1.5}, "--seg_conf_thresh"),
        ("otsu", {"confidence_thresh": float("nan")}, "--seg_conf_thresh"),
        ("otsu", {"batch_size": 0}, "--seg_batch_size"),
        ("otsu", {"treshold": 1}, "does not take: treshold"),
    ],
)
def test_bad_settings(name, options, words):
    with pytest.raises(SettingsError, match=words):
        segmentation_model_factory(name, **options)


def test_names_are_known_without_heavy_imports():
    code = (
        "import sys; from trident.segmentation.registry import SEGMENTER_NAMES; "
        "heavy = {'numpy', 'cv2', 'torch', 'shapely', 'skimage'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SEGMENTER_NAMES == ("hest", "grandqc", "otsu")


def test_from_a_slide_to_outlines(pyramid_slide):
    level0 = np.full((4000, 3000, 3), 244, np.uint8)
    cv2.circle(level0, (1500, 2000), 1000, (190, 80, 150), -1)
    cv2.circle(level0, (1500, 2000), 700, (244, 244, 244), -1)
    slide = pyramid_slide(level0, downsamples=(1, 4), mpp=1.0)
    seen = []
    segmenter = segmentation_model_factory("otsu")
    (ring,) = segment_tissue(slide, segmenter, keep_holes=True, progress=lambda done, total: seen.append((done, total)))
    (filled,) = segment_tissue(slide, segmenter, keep_holes=False)
    assert seen == [(1, 1)]
    centre = shapely.Point(1500, 2000)
    for found, truth in (
        (filled, centre.buffer(1000)),
        (ring, centre.buffer(1000).difference(centre.buffer(700))),
    ):
        assert found.intersection(truth).area / found.union(truth).area > 0.97


def test_an_empty_slide_has_no_outlines(pyramid_slide):
    slide = pyramid_slide(np.full((500, 400, 3), 255, np.uint8))
    assert segment_tissue(slide, segmentation_model_factory("otsu")) == []


def test_real_slide_outlines_agree_with_their_mask(shared_slides):
    segmenter = segmentation_model_factory("otsu")
    with open_slide(shared_slides / "TCGA-CR-7395-no-mpp.svs", mpp=2.0) as slide:
        mask = segmenter.segment(slide)
        polygons = segment_tissue(slide, segmenter, keep_holes=True)
        slide_area = slide.dimensions[0] * slide.dimensions[1]
    assert sum(len(polygon.interiors) for polygon in polygons) == 1  # the tear in the middle
    assert all(polygon.is_valid for polygon in polygons)
    assert sum(polygon.area for polygon in polygons) / slide_area == pytest.approx(mask.mask.mean(), abs=0.01)
