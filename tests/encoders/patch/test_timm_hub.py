"""trident/encoders/patch/timm_hub.py: `timm/<model>`, against timm itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.registry import spec
from trident.encoders.patch.transforms import build_transform
from trident.encoders.weights import LOCAL_CKPTS_ENV, locate
from trident.errors import SettingsError, WeightsError

MODELS = {
    "resnet18": 512,
    "mobilenetv3_small_050.lamb_in1k": 1024,  # its head widens the last map
    "vit_tiny_patch16_224": 192,
    "convnext_atto.d2_in1k": 320,
    "test_vit4": 96,
}


@pytest.fixture(autouse=True)
def _no_machine_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(LOCAL_CKPTS_ENV, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    rng = np.random.default_rng(4)
    return Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8))


def _random_model(model: str, **arguments: int) -> torch.nn.Module:
    torch.manual_seed(7)
    return timm.create_model(model, pretrained=False, **arguments).eval()  # type: ignore[arg-type]


def _save(state: dict[str, Tensor], folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("model", [*MODELS, "vit_base_patch16_clip_224.openai", "eva02_tiny_patch14_224.mim_in22k"])
def test_transform_is_timms(model: str, photograph: Image.Image) -> None:
    with torch.device("meta"):
        network = timm.create_model(model, pretrained=False)
    config = timm.data.resolve_model_data_config(network)  # type: ignore[attr-defined]
    expected = timm.data.create_transform(**config, is_training=False)(photograph)  # type: ignore[attr-defined]
    declared = spec(f"timm/{model}")
    got = build_transform(declared.transform)(photograph)
    assert got.shape[-1] == declared.input_size_px
    assert torch.equal(got, expected)


@pytest.mark.parametrize("model", MODELS)
def test_features_are_those_before_the_classifier(model: str, tmp_path: Path, photograph: Image.Image) -> None:
    network = _random_model(model)
    encoder = encoder_factory(f"timm/{model}", weights_path=_save(network.state_dict(), tmp_path))
    batch = encoder.eval_transforms(photograph)[None]
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(batch), pre_logits=True)  # type: ignore[operator]
        got = encoder(batch)
    assert encoder.enc_name == f"timm/{model}"
    assert encoder.embedding_dim == MODELS[model]
    assert torch.allclose(got, expected, atol=1e-6)
    assert encoder.weights_sha256 is not None
    assert not encoder.training


@pytest.mark.parametrize("n_classes", [0, 5])
def test_weights_without_the_published_classifier(n_classes: int, tmp_path: Path, photograph: Image.Image) -> None:
    network = _random_model("resnet18", num_classes=n_classes)
    encoder = encoder_factory("timm/resnet18", weights_path=_save(network.state_dict(), tmp_path))
    network.reset_classifier(0)  # type: ignore[operator]
    batch = encoder.eval_transforms(photograph)[None]
    with torch.inference_mode():
        assert torch.equal(encoder(batch), network(batch))


def test_declaration_knows_where_the_weights_are(tmp_path: Path) -> None:
    declared = spec("timm/resnet18")
    assert declared.repo_id == "timm/resnet18.a1_in1k"
    assert declared.filenames[0] == "model.safetensors"
    assert declared.licence == "apache-2.0"
    assert spec("timm/resnet18.tv_in1k").repo_id == "timm/resnet18.tv_in1k"
    assert locate(declared) is None
    (tmp_path / "model.safetensors").write_bytes(b"x")
    found = locate(declared, tmp_path)
    assert found is not None
    assert found.path == tmp_path / "model.safetensors"


@pytest.mark.parametrize("break_it", ["missing", "other model", "another shape"])
def test_weights_that_do_not_fit(break_it: str, tmp_path: Path) -> None:
    state = _random_model("resnet34" if break_it == "other model" else "resnet18").state_dict()
    if break_it == "missing":
        del state["layer1.0.conv1.weight"]
    if break_it == "another shape":
        state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 5, 5)
    path = _save(state, tmp_path)
    with pytest.raises(WeightsError) as caught:
        encoder_factory("timm/resnet18", weights_path=path)
    assert str(caught.value).startswith(f"{path}: these are not the weights of timm/resnet18; ")
    assert "layer" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "error", "expected"),
    [
        ("timm/resnet81", {}, SettingsError, "has no such model; did you mean timm/resnet"),
        ("timm/resnet18.nothing", {}, SettingsError, "has no such model; did you mean timm/resnet18"),
        ("timm/", {}, SettingsError, "has no such model"),
        ("timm/hf-hub:timm/resnet18", {}, SettingsError, "has no such model"),
        ("timm/resnet18", {"img_size": 256}, SettingsError, "a timm model runs at its published input size"),
        ("timm/resnet18", {"features_only": True}, SettingsError, "has no option features_only"),
        ("timm/resnet18", {"weights_path": "/nowhere/w.bin"}, WeightsError, "/nowhere/w.bin: no such file"),
        ("timm/vit_base_patch32_plus_256", {}, WeightsError, "its weights are not published on the hub"),
    ],
)
def test_refused(name: str, options: dict[str, object], error: type[Exception], expected: str) -> None:
    with pytest.raises(error) as caught:
        encoder_factory(name, **options)  # type: ignore[arg-type]
    assert expected in str(caught.value)
