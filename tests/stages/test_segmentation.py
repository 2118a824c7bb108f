"""The segmentation stage with neural models: messages, recipes, and when weights are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trident.errors import RecipeMismatchError, WeightsError
from trident.job import COORDS, SEGMENTATION, create_job
from trident.segmentation.base import Segmenter
from trident.segmentation.neural import NeuralSegmenter
from trident.segmentation.registry import segmentation_model_factory
from trident.segmentation.spec import GRANDQC_ARTIFACT, HEST, SegmentationModelSpec
from trident.settings import load_settings
from trident.slides.discovery import SlideSource
from trident.stages.base import Condition, StageContext, StageResult, run_stage
from trident.stages.plan import JobStages
from trident.stages.segmentation import SegmentationStage
from trident.store import geojson
from trident.store.layout import JobLayout

GRID = "20x_256px_0px_overlap"


class _OneClass(nn.Module):
    """Says one class everywhere; another one in the left 64 px of each tile."""

    def __init__(self, n_classes: int, usual: int, left: int) -> None:
        super().__init__()
        self.register_buffer("usual", nn.functional.one_hot(torch.tensor(usual), n_classes) * 9.0)
        self.register_buffer("left", nn.functional.one_hot(torch.tensor(left), n_classes) * 9.0)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits = self.usual.view(1, -1, 1, 1).repeat(len(batch), 1, *batch.shape[2:])
        logits[..., :64] = self.left.view(1, -1, 1, 1)
        return logits


def _model(spec: SegmentationModelSpec, usual: int, left: int, **options: object) -> NeuralSegmenter:
    return NeuralSegmenter(spec, _OneClass(spec.n_classes, usual, left), **options)


Run = Callable[..., tuple[SegmentationStage, StageResult]]


@pytest.fixture
def stage(tmp_path: Path, drawn_slides: Callable[..., Path]) -> Callable[..., SegmentationStage]:
    """Function (segmenter, remover): the stage for a slide of 256 x 192 px at 10x."""
    path = drawn_slides(tmp_path / "slides", "a.svs") / "a.svs"
    source = SlideSource(path, path.name, "a", None, path.stat().st_size)
    context = StageContext(JobLayout(tmp_path / "job", GRID), frozenset({SEGMENTATION}), max_workers=0)

    def make(segmenter: object, remover: NeuralSegmenter | None = None) -> SegmentationStage:
        return SegmentationStage.of_model(context, source, segmenter, cut_holes=False, artifact_remover=remover)

    return make


def test_neural_tissue_and_its_recipe(stage: Callable[..., SegmentationStage]) -> None:
    made = stage(_model(HEST, usual=1, left=0, weights_sha256="abc"))
    result = run_stage(made)
    assert result.message == "1 tissue region"
    (outline,) = geojson.read_tissue(made.output)
    assert outline.bounds == pytest.approx((256, 0, 1024, 768), abs=6)
    recipe = geojson.read_recipe(made.output)
    assert recipe is not None
    expected = {
        "segmenter": "hest",
        "segmenter_magnification": 10,
        "seg_conf_thresh": 0.5,
        "segmenter_weights_sha256": "abc",
        "artifacts_removed": "none",
    }
    assert {name: recipe.settings[name] for name in expected} == expected
    assert (recipe.facts["device"], recipe.facts["precision"]) == ("cpu", "float32")
    assert run_stage(made).skipped


def test_artifacts_are_removed_and_recorded(stage: Callable[..., SegmentationStage]) -> None:
    remover = _model(GRANDQC_ARTIFACT, usual=1, left=4, weights_sha256="def")
    made = stage(segmentation_model_factory("otsu"), remover)
    result = run_stage(made)
    assert result.message.endswith("tissue region") or result.message.endswith("tissue regions")
    assert min(outline.bounds[0] for outline in geojson.read_tissue(made.output)) >= 256
    recipe = geojson.read_recipe(made.output)
    assert recipe is not None
    assert recipe.settings["artifacts_removed"] == "all artifacts"
    assert recipe.settings["artifact_weights_sha256"] == "def"


@pytest.mark.parametrize(
    ("segmenter", "remover", "phases"),
    [
        (lambda: segmentation_model_factory("otsu"), lambda: None, {"decode", "wait"}),
        (lambda: _model(HEST, 1, 0), lambda: None, {"read", "decode", "wait", "transform", "encode"}),
        (
            lambda: segmentation_model_factory("otsu"),
            lambda: _model(GRANDQC_ARTIFACT, 1, 4),
            {"read", "decode", "wait", "transform", "encode"},
        ),
    ],
    ids=["otsu", "network", "otsu, then a network"],
)
def test_where_the_time_went(
    stage: Callable[..., SegmentationStage],
    segmenter: Callable[[], Segmenter],
    remover: Callable[[], NeuralSegmenter | None],
    phases: set[str],
) -> None:
    timings = run_stage(stage(segmenter(), remover())).timings
    assert timings.keys() >= {"total", "load", "open", "write", *phases}
    assert timings["total"] > 0
    # Not the threads' own seconds, which go on beside one another; each is rounded.
    one_after_another = sum(timings.get(phase, 0) for phase in ("load", "open", "wait", "encode", "write"))
    assert one_after_another <= timings["total"] + 0.01


@pytest.mark.parametrize(
    ("penmarks_only", "remedy"),
    [
        (False, "try without --remove_artifacts or --remove_penmarks only"),
        (True, "try without --remove_penmarks"),
    ],
)
def test_nothing_left_is_told_with_what_to_try(
    stage: Callable[..., SegmentationStage], penmarks_only: bool, remedy: str
) -> None:
    remover = _model(GRANDQC_ARTIFACT, usual=4, left=4, remove_penmarks_only=penmarks_only)
    made = stage(segmentation_model_factory("otsu"), remover)
    assert run_stage(made).message == f"no tissue found: artifact removal left nothing; {remedy}"
    assert geojson.read_tissue(made.output) == []
    log = made.context.layout.stage_log(SEGMENTATION).read_text()
    assert log.startswith("a.svs: no tissue found: artifact removal left nothing")


def test_no_tissue_to_begin_with_does_not_blame_the_removal(stage: Callable[..., SegmentationStage]) -> None:
    remover = _model(GRANDQC_ARTIFACT, usual=4, left=4)
    assert run_stage(stage(_model(HEST, usual=0, left=0), remover)).message == "no tissue found"


def test_another_model_or_removal_is_a_conflict_that_names_it(stage: Callable[..., SegmentationStage]) -> None:
    run_stage(stage(_model(HEST, usual=1, left=1, weights_sha256="abc")))
    unknown_digest = stage(_model(HEST, usual=1, left=1))
    assert unknown_digest.status().done
    remover = _model(GRANDQC_ARTIFACT, usual=1, left=1)
    for other, says in (
        (stage(_model(HEST, usual=1, left=1, weights_sha256="abd")), "segmenter_weights_sha256: abc -> abd"),
        (stage(_model(HEST, usual=1, left=1, confidence_thresh=0.4)), "seg_conf_thresh: 0.5 -> 0.4"),
        (stage(_model(HEST, usual=1, left=1), remover), "artifacts_removed: none -> all artifacts"),
        (stage(segmentation_model_factory("otsu")), "segmenter: hest -> otsu"),
    ):
        assert other.status().condition is Condition.CONFLICT
        with pytest.raises(RecipeMismatchError, match=says):
            run_stage(other)


@pytest.fixture
def job_options(
    tmp_path: Path, drawn_slides: Callable[..., Path], clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """Options of a job with two slides, on a machine that is offline and whose hub cache is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.file_download.try_to_load_from_cache", lambda *_, **__: None)
    registry = tmp_path / "ckpts.json"
    (tmp_path / "hest.ckpt").write_bytes(b"weights")
    registry.write_text(json.dumps({"segmentation": {"hest": "hest.ckpt"}}))
    monkeypatch.setenv("TRIDENT_LOCAL_CKPTS", str(registry))
    slides = drawn_slides(tmp_path / "slides", "a.svs", "b.svs")
    return {"wsi_dir": slides, "job_dir": tmp_path / "job", "task": "seg", "gpus": "-1"}


def test_a_job_knows_the_digest_of_its_weights(job_options: dict[str, object], tmp_path: Path) -> None:
    import hashlib

    stages = JobStages(create_job(load_settings(**job_options, segmenter="hest", seg_conf_thresh=0.3)))
    settings = stages.stage(SEGMENTATION, "a").settings()
    assert settings["segmenter_weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert (settings["segmenter"], settings["seg_conf_thresh"]) == ("hest", 0.3)
    assert settings["artifacts_removed"] == "none"


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({"segmenter": "grandqc"}, "grandqc: weights Tissue_Detection_MPP10.pth"),
        ({"segmenter": "otsu", "remove_artifacts": True}, "grandqc_artifact: weights GrandQC_MPP1_state_dict.pth"),
        ({"segmenter": "hest", "remove_penmarks": True}, "grandqc_artifact: weights GrandQC_MPP1_state_dict.pth"),
    ],
)
def test_missing_weights_are_told_before_any_slide_is_touched(
    job_options: dict[str, object], options: dict[str, object], model: str
) -> None:
    settings = load_settings(**job_options, **options)
    stages = JobStages(create_job(settings))
    stages.fetch_weights({COORDS})
    with pytest.raises(WeightsError) as caught:
        stages.fetch_weights({SEGMENTATION})
    assert str(caught.value).startswith(f"{model} of https://huggingface.co/MahmoodLab/hest-tissue-seg")
    with pytest.raises(WeightsError):
        stages.stage(SEGMENTATION, "a").produce(lambda *_: pytest.fail("a slide was looked at"))
    assert not settings.job_dir.exists()


def test_models_are_made_with_the_jobs_options(job_options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr("trident.segmentation.registry.weights.locate", lambda *_: None)
    monkeypatch.setattr("trident.stages.models.segmenter", lambda *given: made.append(given))
    monkeypatch.setattr("trident.stages.models.artifact_remover", lambda *given: made.append(given))
    for flags in ({"remove_penmarks": True}, {"remove_artifacts": True, "remove_penmarks": True}, {}):
        options = {**job_options, "segmenter": "grandqc", "seg_conf_thresh": 0.7, "batch_size": 9, "max_workers": 3}
        stage = JobStages(create_job(load_settings(**options, **flags))).stage(SEGMENTATION, "a")
        assert isinstance(stage, SegmentationStage)
        stage.load_segmenter()
        if stage.load_artifact_remover is not None:
            stage.load_artifact_remover()
    tissue = ("grandqc", 0.7, "cpu", 9, 3)
    assert made == [tissue, (True, "cpu", 9, 3), tissue, (False, "cpu", 9, 3), tissue]
