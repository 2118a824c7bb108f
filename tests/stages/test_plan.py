"""From a job's options to its stages."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.errors import WeightsError
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, create_job
from trident.settings import load_settings
from trident.stages.coords import CoordsStage
from trident.stages.features import PatchFeaturesStage
from trident.stages.features_group import PatchFeaturesGroup
from trident.stages.plan import JobStages
from trident.store.recipes import Recipe, VerdictKind, compare

pytestmark = pytest.mark.usefixtures("quiet_process")


@pytest.fixture
def stages_of(tmp_path: Path, drawn_slides: Callable[..., Path]) -> Callable[..., JobStages]:
    wsis = drawn_slides(tmp_path / "wsis", "a.svs")

    def make(nonce: str = "", **options: Any) -> JobStages:
        usual = {"segmenter": "otsu", "patch_encoder": "stain-stats", "gpus": "-1", "task": "all"}
        return JobStages(
            create_job(load_settings(**{"job_dir": tmp_path / "job", "wsi_dir": wsis, **usual, **options}), nonce=nonce)
        )

    return make


def test_the_stages_of_a_slide_stand_on_one_another(stages_of: Callable[..., JobStages], tmp_path: Path) -> None:
    stages = stages_of(slide_encoder="mean-stain-stats", mag=10, patch_size=128).all_of("a")
    assert [stage.kind for stage in stages] == [SEGMENTATION, COORDS, PATCH_FEATURES, SLIDE_FEATURES]
    for earlier, later in itertools.pairwise(stages):
        assert later.needs is not None
        assert later.needs.output == earlier.output
    grid = tmp_path / "job" / "10x_128px_0px_overlap"
    assert [stage.output for stage in stages] == [
        tmp_path / "job/contours_geojson/a.geojson",
        grid / "patches/a_patches.h5",
        grid / "features_stain-stats/a.h5",
        grid / "slide_features_mean-stain-stats/a.h5",
    ]


@pytest.mark.parametrize(
    ("options", "kind", "settings"),
    [
        ({}, SEGMENTATION, {"segmenter": "otsu", "remove_holes": False, "mpp": "from the slide"}),
        ({"remove_holes": True}, SEGMENTATION, {"remove_holes": True}),
        ({"custom_mpp_keys": "k"}, SEGMENTATION, {"custom_mpp_keys": ["k"]}),
        ({"mag": 2.5, "overlap": 8}, COORDS, {"magnification": 2.5, "patch_size": 512, "overlap": 8}),
        ({"min_tissue_proportion": 0.5}, COORDS, {"min_tissue_proportion": 0.5}),
        ({"target_mpp": 0.5}, COORDS, {"magnification": "by target_mpp", "target_mpp": 0.5, "patch_size": 512}),
        ({}, PATCH_FEATURES, {"patch_encoder": "stain-stats"}),
        ({"slide_encoder": "mean-stain-stats"}, SLIDE_FEATURES, {"slide_encoder": "mean-stain-stats"}),
    ],
)
def test_options_that_shape_an_output_are_in_its_settings(
    stages_of: Callable[..., JobStages], options: dict[str, Any], kind: str, settings: dict[str, Any]
) -> None:
    found = stages_of(**options).stage(kind, "a").settings()
    assert {name: found[name] for name in settings} == settings


@pytest.mark.parametrize("kind", [SEGMENTATION, COORDS, PATCH_FEATURES])
def test_options_that_shape_nothing_are_in_no_settings(stages_of: Callable[..., JobStages], kind: str) -> None:
    other = stages_of(
        batch_size=3,
        seg_batch_size=2,
        feat_batch_size=1,
        max_workers=0,
        skip_errors=True,
        debug=True,
        dump_patches=True,
    )
    assert other.stage(kind, "a").settings() == stages_of().stage(kind, "a").settings()


def test_the_threshold_counts_only_where_the_segmenter_has_one(stages_of: Callable[..., JobStages]) -> None:
    assert "seg_conf_thresh" not in stages_of(seg_conf_thresh=0.4).stage(SEGMENTATION, "a").settings()
    neural = stages_of(task="coords", segmenter="hest", seg_conf_thresh=0.4).stage(SEGMENTATION, "a").settings()
    assert (neural["segmenter"], neural["seg_conf_thresh"]) == ("hest", 0.4)


def test_batch_sizes_and_dumping_reach_their_stages(stages_of: Callable[..., JobStages]) -> None:
    stages = stages_of(batch_size=7)
    features = stages.stage(PATCH_FEATURES, "a")
    assert isinstance(features, PatchFeaturesStage)
    assert features.batch_size == 7
    features = stages_of(batch_size=7, feat_batch_size=9).stage(PATCH_FEATURES, "a")
    assert isinstance(features, PatchFeaturesStage)
    assert features.batch_size == 9
    coords = stages.stage(COORDS, "a")
    assert isinstance(coords, CoordsStage)
    assert coords.dump is None
    coords = stages_of(dump_patches=True, dump_patches_max=3, dump_patches_format="jpg").stage(COORDS, "a")
    assert isinstance(coords, CoordsStage)
    assert coords.dump is not None
    assert (coords.dump.limit, coords.dump.image_format, coords.dump.jpeg_quality) == (3, "jpg", 90)


def test_only_overwrite_asks_for_outputs_of_this_run(stages_of: Callable[..., JobStages]) -> None:
    assert stages_of(nonce="1").context.overwrite_run is None
    assert stages_of(nonce="1", overwrite=True).context.overwrite_run == "1"


def test_weights_that_are_not_there_are_told_before_the_first_slide(
    stages_of: Callable[..., JobStages], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"none\.pt"):
        stages_of(patch_encoder="uni_v1", patch_encoder_ckpt_path=tmp_path / "none.pt")
    stages_of(patch_encoder="uni_v1", patch_encoder_ckpt_path=tmp_path / "none.pt", task="coords")


def test_several_encoders_run_as_one_and_are_listed_one_by_one(stages_of: Callable[..., JobStages]) -> None:
    stages = stages_of(patch_encoder="stain-stats uni_v1", slide_encoder="mean-uni_v1")
    group = stages.stage(PATCH_FEATURES, "a")
    assert isinstance(group, PatchFeaturesGroup)
    keys = ["patch_features:stain-stats", "patch_features:uni_v1"]
    assert [member.key for member in group.members] == keys
    assert group.key in stages.job.stages
    assert [stage.key for stage in stages.all_of("a")][2:4] == keys
    assert [stages.of_key(key, "a").output for key in keys] == [member.output for member in group.members]
    assert group.places() == [member.output for member in group.members]
    coords = stages.of_key("coords", "a")
    assert coords.members == (coords,)
    needs = stages.stage(SLIDE_FEATURES, "a").needs
    assert needs is not None
    assert needs.key == keys[1]
    assert isinstance(stages_of().stage(PATCH_FEATURES, "a"), PatchFeaturesStage)


@pytest.mark.parametrize("kind", [PATCH_FEATURES, SLIDE_FEATURES])
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_another_precision_is_a_difference_and_an_old_recipe_none(
    stages_of: Callable[..., JobStages], kind: str, precision: str
) -> None:
    usual = stages_of(slide_encoder="mean-stain-stats").stage(kind, "a").wanted_recipe()
    other = stages_of(slide_encoder="mean-stain-stats", precision=precision).stage(kind, "a").wanted_recipe()
    assert compare(usual, other).kind is VerdictKind.DIFFERENT
    assert compare(other, usual).kind is VerdictKind.DIFFERENT
    old = Recipe(usual.stage, {key: value for key, value in usual.settings.items() if key != "precision"}, usual.inputs)
    assert compare(old, usual).kind is VerdictKind.SAME
