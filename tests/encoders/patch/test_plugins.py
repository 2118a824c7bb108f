"""trident/encoders/patch/plugins.py: encoders of other packages, installed as far as Python can see."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trident.encoders import weights
from trident.encoders.patch import plugins
from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.registry import check_known, plugin_names, spec
from trident.errors import SettingsError, WeightsError

_MODULE = """
import torch
from torchvision import transforms
from trident.encoders.patch.base import CustomInferenceEncoder, PatchEncoder

class _Mean(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, batch):
        return self.scale * batch.mean(dim=(2, 3))

def mean(weights_path=None, img_size=32, scale=1.0):
    steps = transforms.Compose([transforms.Resize(img_size), transforms.ToTensor()])
    return CustomInferenceEncoder("whatever", _Mean(scale), steps, torch.bfloat16)

def nothing():
    return torch.nn.Identity()
"""

_ENTRY_POINTS = """
[trident.patch_encoders]
lab-mean = lab_encoders:mean
lab-nothing = lab_encoders:nothing
lab-absent = lab_encoders:absent
lab-broken = lab_encoders_that_are_not_there:mean
uni_v1 = lab_encoders:mean
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "lab_encoders-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-encoders\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    (tmp_path / "lab_encoders.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    sys.modules.pop("lab_encoders", None)


def test_names_and_declaration_without_import() -> None:
    assert plugin_names() == ("lab-absent", "lab-broken", "lab-mean", "lab-nothing", "uni_v1")
    check_known("lab-mean")
    declared = spec("lab-mean")
    assert (declared.name, declared.plugin, declared.embedding_dim) == ("lab-mean", True, None)
    assert declared.builder == "lab_encoders:mean"
    assert declared.licence == "see the package lab-encoders 2.5"
    assert "lab_encoders" not in sys.modules


def test_a_published_name_stays_the_published_encoder() -> None:
    assert not spec("uni_v1").plugin


def test_built_with_what_is_given() -> None:
    from PIL import Image

    encoder = encoder_factory("lab-mean", img_size=16, scale=2.0)
    assert (encoder.enc_name, encoder.embedding_dim, encoder.training) == ("lab-mean", 3, False)
    assert encoder.precision is torch.bfloat16
    image = encoder.eval_transforms(Image.new("RGB", (64, 64), (51, 102, 255)))
    assert image.shape == (3, 16, 16)
    assert torch.allclose(encoder(image[None]), torch.tensor([[0.4, 0.8, 2.0]]))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_weights_are_found_without_a_hub(tmp_path: Path) -> None:
    declared = spec("lab-mean")
    assert weights.locate(declared) is None
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert weights.locate(declared, file) == weights.locate(declared, tmp_path) == weights.WeightsFile(file, "given")
    with pytest.raises(WeightsError, match="no such file"):
        weights.locate(declared, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lab-mean", {"depth": 3}, "cannot be made with depth: mean() got an unexpected keyword argument 'depth'"),
        ("lab-nothing", {}, "is a Identity; its callable must return a PatchEncoder"),
        ("lab-absent", {}, "cannot be made: module 'lab_encoders' has no attribute 'absent'"),
        ("lab-broken", {}, "cannot be made: No module named 'lab_encoders_that_are_not_there'"),
        ("lab-meen", {}, "did you mean lab-mean?"),
    ],
)
def test_refused(name: str, options: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        encoder_factory(name, **options)  # type: ignore[arg-type]
    assert expected in str(caught.value)
    assert name in str(caught.value)
