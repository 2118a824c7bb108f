"""Names of the output contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from trident.store.layout import JobLayout, format_magnification, grid_name

JOB = JobLayout(Path("/job"), "20x_256px_0px_overlap")


@pytest.mark.parametrize(
    ("magnification", "text"), [(20, "20"), (20.0, "20"), (2.5, "2.5"), (1.25, "1.25"), (40.0, "40"), (10, "10")]
)
def test_magnification_has_no_trailing_zeros(magnification: float, text: str) -> None:
    assert format_magnification(magnification) == text


def test_grid_name() -> None:
    assert grid_name(2.5, 512, 0) == "2.5x_512px_0px_overlap"
    assert grid_name(20, 256, 0, target_mpp=0.5) == "0.5mpp_256px_0px_overlap"
    assert grid_name(None, 224, 32, target_mpp=1.0) == "1mpp_224px_32px_overlap"
    # Two resolutions that differ only a little have two folders.
    assert grid_name(None, 256, 0, target_mpp=0.2528001) == "0.2528001mpp_256px_0px_overlap"
    with pytest.raises(ValueError, match="a magnification or"):
        grid_name(None, 256, 0)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (JOB.thumbnail("a"), "/job/thumbnails/a.jpg"),
        (JOB.contours_image("a"), "/job/contours/a.jpg"),
        (JOB.tissue("a"), "/job/contours_geojson/a.geojson"),
        (JOB.coords("a.b"), "/job/20x_256px_0px_overlap/patches/a.b_patches.h5"),
        (JOB.coords_image("a"), "/job/20x_256px_0px_overlap/visualization/a.jpg"),
        (JOB.patch_images_dir("a"), "/job/20x_256px_0px_overlap/patch_images/a"),
        (JOB.patch_features("a", "uni_v1"), "/job/20x_256px_0px_overlap/features_uni_v1/a.h5"),
        (JOB.slide_features("a", "titan"), "/job/20x_256px_0px_overlap/slide_features_titan/a.h5"),
        (JOB.stage_config("segmentation"), "/job/_config_segmentation.json"),
        (JOB.stage_config("coords"), "/job/20x_256px_0px_overlap/_config_coords.json"),
        (JOB.stage_config("patch_features:uni_v1"), "/job/20x_256px_0px_overlap/_config_feats_uni_v1.json"),
        (JOB.stage_config("slide_features:titan"), "/job/20x_256px_0px_overlap/_config_slide_features_titan.json"),
        (JOB.stage_log("segmentation"), "/job/_logs_segmentation.txt"),
        (JOB.stage_log("patch_features:uni_v1"), "/job/20x_256px_0px_overlap/_logs_feats_uni_v1.txt"),
        (JobLayout(Path("/job"), "/else/grid").coords("a"), "/else/grid/patches/a_patches.h5"),
    ],
)
def test_paths(path: Path, expected: str) -> None:
    assert path == Path(expected)
