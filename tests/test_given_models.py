"""trident/given_models.py: the model that removes artifacts, handed to one slide and to a folder of slides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union
from torch import Tensor, nn

from trident.demo import draw_demo_slide
from trident.errors import RecipeMismatchError, SettingsError
from trident.given_models import check_patch_encoder, place_artifact_remover
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.processor import Processor
from trident.segmentation.neural import NeuralSegmenter
from trident.segmentation.spec import GRANDQC_ARTIFACT, HEST
from trident.segmentation_models import segmentation_model_factory
from trident.store.geojson import read_recipe, read_tissue
from trident.wsi import load_wsi

_CLEAN, _PEN = 1, 4
"""Classes of the artifact model."""
_BOUND_PX = 256
"""Level-0 px of a 20x slide that the network below calls pen mark: 128 px at its 10x."""


class _PenAtTheLeft(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        logits = torch.zeros(len(batch), GRANDQC_ARTIFACT.n_classes, *batch.shape[2:])
        logits[:, _CLEAN] = 5
        logits[:, _PEN, :, :128] = 9
        return logits


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    draw_demo_slide(tmp_path / "slides" / "one.svs", seed=1, width_px=1000, height_px=768, mpp=0.5)
    return tmp_path / "slides"


@pytest.fixture
def remover() -> NeuralSegmenter:
    return NeuralSegmenter(GRANDQC_ARTIFACT, _PenAtTheLeft(), weights_sha256="abc", max_workers=0)


def _tissue(path: str) -> BaseGeometry:
    return unary_union(read_tissue(Path(path)))


def test_removed_from_one_slide_with_and_without_files(slides: Path, tmp_path: Path, remover: NeuralSegmenter) -> None:
    otsu, wsi = segmentation_model_factory("otsu"), load_wsi(slides / "one.svs")
    usual = unary_union(wsi.segment_tissue(otsu, device="cpu"))
    outlines = wsi.segment_tissue(otsu, device="cpu", artifact_remover_model=remover)
    path = wsi.segment_tissue(otsu, device="cpu", job_dir=tmp_path / "job", artifact_remover_model=remover)
    assert isinstance(path, str)
    assert usual.bounds[0] < _BOUND_PX - 50
    clean = unary_union(outlines)
    assert clean.bounds[0] >= _BOUND_PX
    assert usual.intersection(clean).area > 0.95 * clean.area
    assert _tissue(path).symmetric_difference(clean).area < 0.01 * clean.area


def test_removed_from_a_folder_and_recorded(slides: Path, tmp_path: Path, remover: NeuralSegmenter) -> None:
    otsu, job = segmentation_model_factory("otsu"), Processor(tmp_path / "job", slides)
    job.run_segmentation_job(otsu, artifact_remover_model=remover, device="cpu")
    path = job.wsis[0].tissue_seg_path
    assert path is not None
    assert _tissue(path).bounds[0] >= _BOUND_PX
    recipe = read_recipe(Path(path))
    assert recipe is not None
    assert recipe.settings["artifacts_removed"] == "all artifacts"
    assert recipe.settings["artifact_weights_sha256"] == "abc"
    with pytest.raises(RecipeMismatchError, match="artifacts_removed: all artifacts -> none"):
        job.run_segmentation_job(otsu, device="cpu")


def test_moved_to_its_device(remover: NeuralSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def move(self: NeuralSegmenter, device: object) -> NeuralSegmenter:
        moved.append(device)
        return self

    monkeypatch.setattr(NeuralSegmenter, "to", move)
    assert place_artifact_remover(remover, "cuda:1") is remover
    assert place_artifact_remover(None, "cuda:1") is None
    assert moved == ["cuda:1"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (segmentation_model_factory("otsu"), "otsu is no model"),
        (NeuralSegmenter(HEST, nn.Identity()), "hest is no model"),
        ("grandqc_artifact", "str is no model"),
    ],
    ids=["otsu", "hest", "a name"],
)
def test_another_model_is_refused(given: object, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        place_artifact_remover(given, "cpu")


def _named(name: str) -> CustomInferenceEncoder:
    return CustomInferenceEncoder(name, nn.Identity(), lambda image: torch.zeros(3, 1, 1), torch.float32)


def test_the_only_slash_in_an_encoders_name_is_that_after_timm() -> None:
    check_patch_encoder(_named("timm/resnet18"))
    for name in ("lab/resnet18", "timm/", "timm/a/b"):
        with pytest.raises(SettingsError, match="without a slash"):
            check_patch_encoder(_named(name))
