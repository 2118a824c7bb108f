"""trident/processor.py: slides that fail, other runs on the same job, and wrong arguments."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from trident.demo import draw_demo_slide
from trident.encoders.patch.factory import encoder_factory
from trident.encoders.slide.factory import encoder_factory as slide_encoder_factory
from trident.encoders.slide.mean import MeanSlideEncoder
from trident.errors import (
    DiscoveryError,
    NotAvailableError,
    SettingsError,
    StageNotRequestedError,
    TridentError,
    UnreadableSlideError,
)
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.processor import Processor
from trident.segmentation_models import segmentation_model_factory
from trident.store.locks import OutputLock

GRID = "20x_128px_0px_overlap"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two slides."""
    folder = tmp_path_factory.mktemp("slides")
    draw_demo_slide(folder / "one.svs", seed=1, width_px=1024, height_px=768, mpp=0.5)
    draw_demo_slide(folder / "two.svs", seed=2, width_px=768, height_px=1024, mpp=0.5)
    return folder


@pytest.fixture
def job(drawn: Path, tmp_path: Path) -> Processor:
    return Processor(tmp_path / "job", drawn)


def _all_stages(processor: Processor) -> list[str]:
    return [
        processor.run_segmentation_job(segmentation_model_factory("otsu")),
        processor.run_patching_job(20, 128),
        processor.run_patch_feature_extraction_job(GRID, encoder_factory("stain-stats"), "cpu"),
        processor.run_slide_feature_extraction_job(slide_encoder_factory("mean-stain-stats"), GRID, "cpu"),
    ]


def _state(job_dir: str, slide: str) -> dict[str, Any]:
    (path,) = Path(job_dir, "wsi_states").glob(f"{slide}__*.json")
    state: dict[str, Any] = json.loads(path.read_text())
    return state


def _own_encoder(name: str = "own", weight: float = 1.0) -> CustomInferenceEncoder:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(weight))

        def forward(self, batch: Tensor) -> Tensor:
            return batch.mean(dim=(2, 3)) * self.weight

    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)

    return CustomInferenceEncoder(name, Mean(), transform, torch.float32)


@pytest.fixture
def with_a_bad_slide(drawn: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "bad.svs").write_bytes(b"this is no slide")
    (folder / "good.svs").symlink_to(drawn / "one.svs")
    return folder


def test_the_first_error_ends_the_job(with_a_bad_slide: Path, tmp_path: Path) -> None:
    job = Processor(tmp_path / "job", with_a_bad_slide)
    with pytest.raises(UnreadableSlideError, match=r"bad\.svs"):
        job.run_segmentation_job(segmentation_model_factory("otsu"))
    task = _state(job.job_dir, "bad")["tasks"]["segmentation"]
    assert (task["status"], task["attempts"][0]["result"]) == ("error", "error")
    assert "bad.svs" in task["attempts"][0]["error"]
    assert "bad.svs: ERROR" in Path(job.job_dir, "_logs_segmentation.txt").read_text()
    assert not Path(job.job_dir, "contours_geojson", "good.geojson").exists()


def test_errors_are_skipped(with_a_bad_slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = Processor(tmp_path / "job", with_a_bad_slide, skip_errors=True)
    with caplog.at_level(logging.ERROR, "trident"):
        _all_stages(job)
    assert "bad: segmentation failed:" in caplog.text
    assert not any(record.exc_info for record in caplog.records)
    assert Path(job.job_dir, GRID, "slide_features_mean-stain-stats", "good.h5").exists()
    bad = _state(job.job_dir, "bad")["tasks"]
    assert {key: task["status"] for key, task in bad.items()} == dict.fromkeys(bad, "error")
    assert len(bad) == 4
    assert "call run_segmentation_job first" in bad["coords"]["message"]
    good = _state(job.job_dir, "good")["tasks"]
    assert {key: task["attempts"][-1]["result"] for key, task in good.items()} == dict.fromkeys(bad, "completed")


@pytest.mark.parametrize("skip_errors", [False, True])
def test_unforeseen_errors_and_interrupts(drawn: Path, tmp_path: Path, skip_errors: bool) -> None:
    class Broken(nn.Module):
        error: BaseException = ZeroDivisionError("of the model")

        def forward(self, batch: Tensor) -> Tensor:
            raise self.error

    encoder = _own_encoder()
    job = Processor(tmp_path, drawn, skip_errors=skip_errors)
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    job.run_patching_job(20, 128)
    encoder.embedding_dim  # noqa: B018 - measured before the model breaks
    encoder.model = Broken()
    if skip_errors:
        job.run_patch_feature_extraction_job(GRID, encoder, "cpu")
    else:
        with pytest.raises(ZeroDivisionError):
            job.run_patch_feature_extraction_job(GRID, encoder, "cpu")
    assert "ZeroDivisionError: of the model" in _state(str(tmp_path), "one")["tasks"]["patch_features:own"]["message"]
    encoder.model.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        job.run_patch_feature_extraction_job(GRID, encoder, "cpu")
    assert _state(str(tmp_path), "one")["tasks"]["patch_features:own"]["message"] == "interrupted"
    assert list(tmp_path.glob(f"{GRID}/features_own/*")) == []


def test_what_another_run_is_writing_is_left_to_it(job: Processor, caplog: pytest.LogCaptureFixture) -> None:
    root = Path(job.job_dir)
    with OutputLock(root / "contours_geojson" / "one.geojson"), caplog.at_level(logging.WARNING, "trident"):
        job.run_segmentation_job(segmentation_model_factory("otsu"))
    assert "one: segmentation is left to another run" in caplog.text
    assert {file.name for file in (root / "contours_geojson").glob("*.geojson")} == {"two.geojson"}
    assert not list(root.glob("wsi_states/one__*"))


ERRORS: dict[str, tuple[Callable[[Processor, Path], object], type[TridentError], str]] = {
    "no folder": (lambda job, tmp: Processor(tmp, tmp / "no"), DiscoveryError, "does not exist"),
    "no slides": (lambda job, tmp: Processor(tmp, tmp), DiscoveryError, "no slide found"),
    "no list": (
        lambda job, tmp: Processor(tmp, job.wsi_source, custom_list_of_wsis=tmp / "n.csv"),
        DiscoveryError,
        "n.csv",
    ),
    "reader": (lambda job, tmp: Processor(tmp, job.wsi_source, reader_type="x"), SettingsError, "unknown reader type"),
    "artifact remover": (
        lambda job, tmp: job.run_segmentation_job(
            segmentation_model_factory("otsu"), artifact_remover_model=segmentation_model_factory("otsu")
        ),
        SettingsError,
        "otsu is no model that removes artifacts; give segmentation_model_factory('grandqc_artifact')",
    ),
    "patching before segmentation": (
        lambda job, tmp: job.run_patching_job(20, 128),
        StageNotRequestedError,
        "call run_segmentation_job first",
    ),
    "features before patching": (
        lambda job, tmp: job.run_patch_feature_extraction_job(GRID, _own_encoder(), "cpu"),
        StageNotRequestedError,
        "call run_patching_job first",
    ),
    "embedding before patching": (
        lambda job, tmp: job.run_slide_feature_extraction_job(MeanSlideEncoder("mean-stain-stats"), GRID, "cpu"),
        StageNotRequestedError,
        "call run_patching_job first",
    ),
    "saveas of patches": (
        lambda job, tmp: job.run_patch_feature_extraction_job(GRID, _own_encoder(), "cpu", "npz"),
        NotAvailableError,
        "'npz'",
    ),
    "saveas of slides": (
        lambda job, tmp: job.run_slide_feature_extraction_job(MeanSlideEncoder("mean-own"), GRID, "cpu", "pt"),
        NotAvailableError,
        "'pt'",
    ),
    "encoder name": (
        lambda job, tmp: job.run_patch_feature_extraction_job(GRID, _own_encoder("../own"), "cpu"),
        SettingsError,
        "'../own'",
    ),
    "unknown slide encoder": (
        lambda job, tmp: job.run_slide_feature_extraction_job(MeanSlideEncoder("largest"), GRID, "cpu"),
        SettingsError,
        "largest",
    ),
    "no patch encoder": (
        lambda job, tmp: job.run_patch_feature_extraction_job(GRID, "uni_v1", "cpu"),  # type: ignore[arg-type]
        SettingsError,
        "str is no patch encoder",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(job: Processor, tmp_path: Path, case: str) -> None:
    act, error, message = ERRORS[case]
    with pytest.raises(error) as caught:
        act(job, tmp_path)
    assert message in str(caught.value)
    assert [file for file in tmp_path.rglob("*.*") if file.suffix in (".h5", ".geojson")] == []
