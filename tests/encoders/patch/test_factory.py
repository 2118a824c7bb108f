"""trident/encoders/patch/factory.py: fingerprints of whole encoders on made-up weights, and options refused."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from trident.encoders.patch.base import PatchEncoder
from trident.encoders.patch.factory import encoder_factory
from trident.errors import SettingsError, WeightsError

MakeWeights = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def make_weights(
    seeded_state: Callable[[str], dict[str, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> MakeWeights:
    """Writes a checkpoint for an encoder: seeded weights under the published names."""

    def make(name: str, suffix: str) -> Path:
        path = tmp_path_factory.mktemp("weights") / f"{name}{suffix}"
        state = seeded_state(name)
        if suffix == ".safetensors":
            save_file(state, path)
        elif suffix == ".pth":
            torch.save({"state_dict": state}, path)
        else:
            torch.save(state, path)
        return path

    return make


def _encode(encoder: PatchEncoder, image: Image.Image) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(encoder(encoder.eval_transforms(image).unsqueeze(0)))


LARGE = pytest.mark.skipif(
    not os.environ.get("TRIDENT_TEST_LARGE"), reason="gigabytes of made-up weights; set TRIDENT_TEST_LARGE=1"
)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("resnet50", ".safetensors"),
        ("kaiko-vits16", ".bin"),
        ("phikon", ".pth"),
        pytest.param("uni_v1", ".safetensors", marks=LARGE),
        pytest.param("gigapath", ".bin", marks=LARGE),
    ],
)
def test_fingerprint(shared_reference: Path, make_weights: MakeWeights, name: str, suffix: str) -> None:
    expected = np.load(shared_reference / "expected" / "patch" / f"{name}.npy")
    crop_px = json.loads((shared_reference / "expected" / "patch" / "index.json").read_text())[name]["crop"]
    weights = make_weights(name, suffix)
    encoder = encoder_factory(name, weights_path=weights)
    image = Image.open(shared_reference / "patch512.png").convert("RGB").crop((0, 0, crop_px, crop_px))
    got = _encode(encoder, image)
    assert got.shape == (1, encoder.embedding_dim)
    assert np.abs(got[0] - expected).max() <= 1e-4 * np.abs(expected).max()
    assert encoder.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not encoder.training
    weights.unlink()


def test_custom_input_size_equals_resampled_positions(shared_reference: Path, make_weights: MakeWeights) -> None:
    import timm

    weights = make_weights("kaiko-vits16", ".safetensors")
    encoder = encoder_factory("kaiko-vits16", weights_path=weights, img_size=336)
    assert encoder.input_size == 336
    image = Image.open(shared_reference / "patch512.png").convert("RGB")
    assert encoder.eval_transforms(image).shape == (3, 336, 336)

    fixed = timm.create_model("vit_small_patch16_224", img_size=336, num_classes=0).eval()
    state = encoder.model.state_dict()
    positions = state["pos_embed"]
    grid = positions[:, 1:].reshape(1, 14, 14, 384).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(21, 21), mode="bicubic", antialias=True)
    state["pos_embed"] = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 441, 384)], dim=1)
    fixed.load_state_dict(state)
    with torch.inference_mode():
        expected = fixed(encoder.eval_transforms(image).unsqueeze(0)).numpy()
    assert np.abs(_encode(encoder, image) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_options_and_custom_size(shared_reference: Path, make_weights: MakeWeights) -> None:
    image = Image.open(shared_reference / "patch512.png").convert("RGB")
    weights = make_weights("h0-mini", ".bin")
    encoder = encoder_factory("h0-mini", weights_path=weights, return_type="cls+mean", img_size=280)
    assert encoder.options == {"return_type": "cls+mean"}
    assert (encoder.embedding_dim, encoder.input_size) == (1536, 280)
    assert encoder.eval_transforms(image).shape == (3, 280, 280)
    joined = _encode(encoder, image)
    assert joined.shape == (1, 1536)
    assert np.isfinite(joined).all()


def test_weights_of_another_encoder(make_weights: MakeWeights) -> None:
    weights = make_weights("kaiko-vits16", ".safetensors")
    with pytest.raises(WeightsError) as caught:
        encoder_factory("kaiko-vitb16", weights_path=weights)
    assert str(weights) in str(caught.value)
    assert "have another shape" in str(caught.value)
    assert "cls_token is (1, 1, 384) instead of (1, 1, 768)" in str(caught.value)


def test_stain_stats_needs_nothing() -> None:
    encoder = encoder_factory("stain-stats")
    assert (encoder.enc_name, encoder.embedding_dim, encoder.weights_sha256) == ("stain-stats", 64, None)
    assert encoder.precision is torch.float32
    assert encoder.input_size is None
    assert _encode(encoder, Image.new("RGB", (40, 30), (200, 120, 180))).shape == (1, 64)


@pytest.mark.parametrize(
    ("name", "options", "error", "expected"),
    [
        ("uni_v1", {"img_size": 250}, SettingsError, "not a multiple of its token size, 16 px; try 240 or 256"),
        ("uni_v2", {"img_size": 5}, SettingsError, "token size, 14 px; try 14"),
        ("uni_v1", {"img_size": 0}, SettingsError, "not a positive whole number"),
        ("uni_v1", {"img_size": -16}, SettingsError, "not a positive whole number"),
        ("uni_v1", {"img_size": 224.0}, SettingsError, "not a positive whole number"),
        ("uni_v1", {"img_size": True}, SettingsError, "not a positive whole number"),
        ("stain-stats", {"img_size": 224}, SettingsError, "it measures a patch at its own size"),
        ("uni_v1", {"with_proj": True}, SettingsError, "uni_v1 has no option with_proj"),
        ("uni_v1", {"weights_path": "/nowhere/uni.bin"}, WeightsError, "/nowhere/uni.bin: no such file"),
        ("stain-stats", {"weights_path": "/nowhere/uni.bin"}, SettingsError, "stain-stats has no weights"),
        ("phikon", {"img_size": 448}, SettingsError, "it was published for an input of 224 px only"),
        ("gpfm", {"img_size": 225}, SettingsError, "token size, 14 px; try 224 or 238"),
        ("virchow", {"with_proj": 1}, SettingsError, "its options are weights_path, img_size, return_cls"),
        (
            "virchow",
            {"return_cls": 1},
            SettingsError,
            "return_cls=1 of patch encoder virchow is not one of False, ",
        ),
        ("h0-mini", {"return_type": "mean"}, SettingsError, "'mean' of patch encoder h0-mini is not one of 'cls', "),
        ("unl_v1", {}, SettingsError, "did you mean uni_v1?"),
    ],
)
def test_refused(name: str, options: dict[str, object], error: type[Exception], expected: str) -> None:
    with pytest.raises(error) as caught:
        encoder_factory(name, **options)  # type: ignore[arg-type]
    assert expected in str(caught.value)


def test_importing_the_factory_loads_no_torch() -> None:
    import subprocess

    code = (
        "import sys, trident.encoders.patch.factory, trident.encoders.slide.factory; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[3], check=True)
