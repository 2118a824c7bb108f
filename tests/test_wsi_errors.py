"""trident/wsi.py, trident/segmentation_models: what users do wrong, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trident.demo import draw_demo_slide
from trident.encoders.slide.mean import MeanSlideEncoder
from trident.errors import (
    MissingMppError,
    NotAvailableError,
    SettingsError,
    StageNotRequestedError,
    StoreError,
    TridentError,
    UnreadableSlideError,
)
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.segmentation_models import segmentation_model_factory
from trident.wsi import ImageWSI, load_wsi


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "drawn.svs"
    draw_demo_slide(path, seed=1, width_px=1024, height_px=768, mpp=0.5)
    return path


def _mean_colour() -> CustomInferenceEncoder:
    return CustomInferenceEncoder("mean-colour", nn.Identity(), lambda image: torch.zeros(3, 8, 8), torch.float32)


_NO_MODEL: Any = nn.Identity()

# What is done, the error, and part of its message.
ERRORS: dict[str, tuple[Callable[[Path, Path], object], type[TridentError], str]] = {
    "unknown reader": (lambda slide, tmp: load_wsi(slide, "opensldie"), SettingsError, "unknown reader type"),
    "other reader": (lambda slide, tmp: ImageWSI(slide, reader_type="cucim"), SettingsError, "ImageWSI reads with"),
    "another format": (lambda slide, tmp: load_wsi(slide, "czi", lazy_init=False), UnreadableSlideError, "CZI file"),
    "missing file": (lambda slide, tmp: load_wsi(tmp / "no.svs").width, UnreadableSlideError, "no.svs"),
    "missing file, now": (lambda slide, tmp: load_wsi(tmp / "no.svs", lazy_init=False), UnreadableSlideError, "no.svs"),
    "wrong mpp": (lambda slide, tmp: load_wsi(slide, mpp=-1).width, MissingMppError, "-1"),
    "name with a folder": (lambda slide, tmp: load_wsi(slide, name="a/b"), SettingsError, "'a/b'"),
    "no name": (lambda slide, tmp: load_wsi(slide, name=""), SettingsError, "cannot name a file"),
    "level": (lambda slide, tmp: load_wsi(slide).read_region((0, 0), 2, (5, 5)), SettingsError, "0 to 1"),
    "negative level": (lambda slide, tmp: load_wsi(slide).read_region((0, 0), -1, (5, 5)), SettingsError, "level -1"),
    "empty region": (lambda slide, tmp: load_wsi(slide).read_region((0, 0), 0, (0, 5)), SettingsError, "0 x 5"),
    "read_as": (
        lambda slide, tmp: load_wsi(slide).read_region((0, 0), 0, (5, 5), "torch"),  # type: ignore[arg-type]
        SettingsError,
        "pil or numpy",
    ),
    "empty thumbnail": (lambda slide, tmp: load_wsi(slide).get_thumbnail((0, 10)), SettingsError, "0 x 10"),
    "downsample": (
        lambda slide, tmp: load_wsi(slide).get_best_level_and_custom_downsample(0),
        SettingsError,
        "downsample is 0",
    ),
    "coords before tissue": (
        lambda slide, tmp: load_wsi(slide).extract_tissue_coords(20, 128, tmp),
        StageNotRequestedError,
        "call segment_tissue",
    ),
    "tissue before segmentation": (lambda slide, tmp: load_wsi(slide).tissue, StageNotRequestedError, "segment_tissue"),
    "tissue file is missing": (
        lambda slide, tmp: load_wsi(slide, tissue_seg_path=tmp / "no.geojson").extract_tissue_coords(20, 128, tmp),
        StoreError,
        "no.geojson",
    ),
    "coords file is missing": (
        lambda slide, tmp: load_wsi(slide).extract_patch_features(_mean_colour(), tmp / "no.h5", tmp, device="cpu"),
        StoreError,
        "no.h5",
    ),
    "picture of a missing file": (
        lambda slide, tmp: load_wsi(slide).visualize_coords(tmp / "no.h5", tmp),
        StoreError,
        "no.h5",
    ),
    "images of a missing file": (
        lambda slide, tmp: load_wsi(slide).dump_patches(tmp / "no.h5", tmp),
        StoreError,
        "no.h5",
    ),
    "saveas": (
        lambda slide, tmp: load_wsi(slide).extract_patch_features(_mean_colour(), tmp / "c.h5", tmp, saveas="npy"),
        NotAvailableError,
        "'npy'",
    ),
    "no patch encoder": (
        lambda slide, tmp: load_wsi(slide).extract_patch_features(_NO_MODEL, tmp / "c.h5", tmp, device="cpu"),
        SettingsError,
        "Identity is no patch encoder",
    ),
    "no slide encoder": (
        lambda slide, tmp: load_wsi(slide).extract_slide_features(tmp / "f.h5", _NO_MODEL, tmp, device="cpu"),
        SettingsError,
        "Identity is no slide encoder",
    ),
    "encoder name": (
        lambda slide, tmp: load_wsi(slide).extract_slide_features(tmp / "f.h5", MeanSlideEncoder("a/b"), tmp),
        SettingsError,
        "'a/b'",
    ),
    "device": (
        lambda slide, tmp: load_wsi(slide).extract_patch_features(_mean_colour(), tmp / "c.h5", tmp, device="gpu"),
        SettingsError,
        "device 'gpu' is unknown",
    ),
    "segmenter": (lambda slide, tmp: segmentation_model_factory("otus"), SettingsError, "did you mean otsu"),
    "option of a segmenter": (
        lambda slide, tmp: segmentation_model_factory("otsu", magic=1),
        SettingsError,
        "does not take: magic",
    ),
    "threshold of a segmenter": (
        lambda slide, tmp: segmentation_model_factory("otsu", 1.5, True),
        SettingsError,
        "between 0 and 1",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(slide_path: Path, tmp_path: Path, case: str) -> None:
    act, error, message = ERRORS[case]
    with pytest.raises(error) as caught:
        act(slide_path, tmp_path)
    assert message in str(caught.value)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_too_few_gpus(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="there are 1 GPUs"):
        load_wsi(slide_path).extract_patch_features(_mean_colour(), tmp_path / "c.h5", tmp_path, device="cuda:1")
