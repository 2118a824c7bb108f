from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely

from trident.encoders import weights
from trident.errors import SettingsError, WeightsError
from trident.segmentation.base import Segmenter
from trident.segmentation.registry import (
    SEGMENTER_NAMES,
    check_available,
    removal_asked_for,
    removal_settings,
    segment_tissue,
    segmentation_model_factory,
    segmenter_settings,
)
from trident.segmentation.spec import SPECS
from trident.slides.registry import open_slide


def test_otsu_is_made_and_says_what_shapes_its_mask():
    segmenter = segmentation_model_factory("otsu", confidence_thresh=0.3, device="cpu", batch_size=4)
    assert isinstance(segmenter, Segmenter)
    assert (segmenter.name, segmenter.target_magnification) == ("otsu", 1.25)
    settings = segmenter.recipe_settings()
    assert settings["segmenter"] == "otsu"
    assert settings == segmentation_model_factory("otsu", confidence_thresh=0.9).recipe_settings()


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Function ({model: file}): a registry of local weights that lists these."""

    def register(entries):
        path = tmp_path / "ckpts.json"
        path.write_text(json.dumps({"segmentation": entries}))
        monkeypatch.setenv(weights.LOCAL_CKPTS_ENV, str(path))
        return path

    return register


def test_every_name_is_known():
    for name in SEGMENTER_NAMES:
        check_available(name)
    with pytest.raises(SettingsError, match="did you mean grandqc"):
        check_available("grand-qc")


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
        ("otsu", {"weights_path": "w.pth"}, "otsu has no weights, so it cannot load w.pth"),
        ("hest", {"confidence_thresh": -0.1}, "--seg_conf_thresh"),
        ("hest", {"remove_penmarks_only": True}, "hest does not take: remove_penmarks_only"),
        ("grandqc_artifact", {"batch_size": 0}, "--seg_batch_size"),
        ("grandqc_artifact", {"treshold": 1}, "does not take: treshold"),
        ("grandqc_artefact", {}, "unknown"),
    ],
)
def test_bad_settings(name, options, words):
    with pytest.raises(SettingsError, match=words):
        segmentation_model_factory(name, **options)


def test_names_are_known_without_heavy_imports():
    code = (
        "import sys; from trident.segmentation.registry import SEGMENTER_NAMES; "
        "heavy = {'numpy', 'cv2', 'torch', 'shapely', 'skimage', 'huggingface_hub'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SEGMENTER_NAMES == ("hest", "grandqc", "otsu")


def test_weights_of_another_network(tmp_path):
    import torch

    (tmp_path / "deeplabv3_seg_v4.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"deeplabv3_seg_v4\.ckpt"):
        segmentation_model_factory("hest", weights_path=tmp_path)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "GrandQC_MPP1_state_dict.pth")
    with pytest.raises(WeightsError, match="of 420 tensors are missing"):
        segmentation_model_factory("grandqc_artifact", weights_path=tmp_path)


def test_registered_weights_are_found_and_hashed(tmp_path, registered):
    (tmp_path / "any.ckpt").write_bytes(b"weights")
    registered({"hest": "any.ckpt", "grandqc": None})
    digest = weights.sha256_of(tmp_path / "any.ckpt")
    assert segmenter_settings("hest", 0.4) == {
        "segmenter": "hest",
        "segmenter_magnification": 10,
        "seg_conf_thresh": 0.4,
        "segmenter_weights_sha256": digest,
    }
    assert segmenter_settings("hest", 0.4, with_digest=False)["segmenter_weights_sha256"] is None
    assert segmenter_settings("otsu", 0.4) == {"segmenter": "otsu"}


def test_a_wrong_registry_is_told_at_once(registered):
    path = registered({"hest": "/nowhere/hest.ckpt"})
    with pytest.raises(WeightsError, match=f"/nowhere/hest.ckpt: no such file .the path in {path}"):
        segmenter_settings("hest", 0.5)
    registered({"hset": None})
    with pytest.raises(WeightsError, match="unknown segmentation model 'hset'; did you mean hest"):
        segmenter_settings("hest", 0.5)


def test_packaged_registry_lists_every_model():
    content = json.loads((Path(weights.__file__).parent / "local_ckpts.json").read_text())
    assert content["segmentation"] == dict.fromkeys(SPECS)


def test_offline_without_weights_one_line_says_where_they_are(tmp_path):
    code = (
        "import sys\n"
        "from trident.errors import WeightsError\n"
        "from trident.segmentation.registry import segmentation_model_factory, segmenter_settings\n"
        "for name in ('hest', 'grandqc', 'grandqc_artifact'):\n"
        "    try:\n"
        "        segmentation_model_factory(name)\n"
        "    except WeightsError as error:\n"
        "        print(error)\n"
        "assert segmenter_settings('hest', 0.5)['segmenter_weights_sha256'] is None\n"
        "assert not {'torch', 'numpy', 'cv2'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), weights.LOCAL_CKPTS_ENV: ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, (name, file) in zip(
        lines, ((declared.name, declared.filenames[0]) for declared in SPECS.values()), strict=True
    ):
        assert line.startswith(
            f"{name}: weights {file} of https://huggingface.co/MahmoodLab/hest-tissue-seg are not on"
        )
        assert "TRIDENT_LOCAL_CKPTS" in line
        assert "--segmenter otsu needs no weights" in line


@pytest.mark.parametrize(
    ("artifacts", "penmarks", "removal"),
    [(False, False, "none"), (True, False, "all artifacts"), (False, True, "pen marks"), (True, True, "all artifacts")],
)
def test_what_two_flags_ask_for(artifacts, penmarks, removal):
    assert removal_asked_for(remove_artifacts=artifacts, remove_penmarks=penmarks) == removal
    settings = removal_settings(removal, weights_sha256="abc")
    assert settings["artifacts_removed"] == removal
    assert settings.get("artifact_weights_sha256") == (None if removal == "none" else "abc")


def test_from_a_slide_to_outlines(pyramid_slide):
    level0 = np.full((4000, 3000, 3), 244, np.uint8)
    cv2.circle(level0, (1500, 2000), 1000, (190, 80, 150), -1)
    cv2.circle(level0, (1500, 2000), 700, (244, 244, 244), -1)
    slide = pyramid_slide(level0, downsamples=(1, 4), mpp=1.0)
    seen = []
    segmenter = segmentation_model_factory("otsu")
    (ring,) = segment_tissue(slide, segmenter, cut_holes=True, progress=lambda done, total: seen.append((done, total)))
    (filled,) = segment_tissue(slide, segmenter, cut_holes=False)
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
        polygons = segment_tissue(slide, segmenter, cut_holes=True)
        slide_area = slide.dimensions[0] * slide.dimensions[1]
    assert sum(len(polygon.interiors) for polygon in polygons) == 1  # the tear in the middle
    assert all(polygon.is_valid for polygon in polygons)
    assert sum(polygon.area for polygon in polygons) / slide_area == pytest.approx(mask.mask.mean(), abs=0.01)
