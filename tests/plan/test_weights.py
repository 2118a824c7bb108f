"""Which weights a run needs, and whether it would get them: nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.job import PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, STAGE_KINDS, create_job
from trident.plan.weights import WeightsNeed, weights_needed
from trident.settings import load_settings

Needed = Callable[..., list[WeightsNeed]]


@pytest.fixture
def needed(
    tmp_path: Path, clean_settings: Path, drawn_slides: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Needed:
    """Function (kinds, **options): the weights of a job, on a machine with an empty cache and no token."""
    drawn_slides(tmp_path / "wsis", "a.svs")
    registry = tmp_path / "local.json"
    registry.write_text("{}")
    monkeypatch.setenv("TRIDENT_LOCAL_CKPTS", str(registry))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def find(kinds: tuple[str, ...] = STAGE_KINDS, **options: Any) -> list[WeightsNeed]:
        usual = {"wsi_dir": tmp_path / "wsis", "job_dir": tmp_path / "job", "task": "all", "segmenter": "otsu"}
        return weights_needed(create_job(load_settings(**{**usual, **options})), kinds)

    return find


def test_models_without_weights_need_none(needed: Needed) -> None:
    assert needed(patch_encoder="stain-stats", slide_encoder="mean-stain-stats") == []


def test_what_can_be_fetched_and_what_cannot(needed: Needed, monkeypatch: pytest.MonkeyPatch) -> None:
    found = needed(segmenter="hest", remove_penmarks=True, patch_encoder=("resnet50", "uni_v1"))
    assert [(one.model, one.stage, one.state) for one in found] == [
        ("hest", SEGMENTATION, "download"),
        ("grandqc_artifact", SEGMENTATION, "download"),
        ("resnet50", f"{PATCH_FEATURES}:resnet50", "download"),
        ("uni_v1", f"{PATCH_FEATURES}:uni_v1", "missing"),
    ]
    assert "HF_TOKEN" in found[-1].detail
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    assert needed(patch_encoder="uni_v1")[0].state == "download"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (offline,) = needed(patch_encoder="uni_v1")
    assert (offline.state, "HF_HUB_OFFLINE forbids" in offline.detail) == ("missing", True)
    assert needed((SEGMENTATION,), patch_encoder="uni_v1") == []


def test_a_file_that_is_here(needed: Needed, tmp_path: Path) -> None:
    file = tmp_path / "uni.bin"
    file.write_bytes(b"x" * 1000)
    (tmp_path / "local.json").write_text(json.dumps({"patch": {"uni_v1": str(file)}}))
    (one,) = needed(patch_encoder="uni_v1")
    assert (one.state, one.detail, one.size_bytes) == ("here", str(file), 1000)


def test_a_wrong_path_is_missing_weights(needed: Needed, tmp_path: Path) -> None:
    (one,) = needed((PATCH_FEATURES,), patch_encoder="resnet50", patch_encoder_ckpt_path=tmp_path / "no.pt", task="seg")
    assert (one.state, "no such file" in one.detail) == ("missing", True)


def test_slide_encoders(needed: Needed) -> None:
    grid = {"patch_size": 512, "mag": 20}
    (one,) = needed((SLIDE_FEATURES,), slide_encoder="titan", **grid)
    assert (one.model, one.stage, one.state) == ("titan", f"{SLIDE_FEATURES}:titan", "missing")
