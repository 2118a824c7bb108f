"""trident/encoders/slide/factory.py and mean.py: the mean over patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.registry import AVAILABLE_SLIDE_ENCODERS
from trident.errors import NotAvailableError, SettingsError


def test_stored_output(shared_reference: Path) -> None:
    case = json.loads((shared_reference / "expected" / "slide" / "index.json").read_text())["mean-conch_v15"]
    expected = np.load(shared_reference / "expected" / "slide" / "mean-conch_v15.npy")
    generator = np.random.Generator(np.random.PCG64(0))
    features = generator.standard_normal((1, case["n"], case["dim_in"])).astype(np.float32) * 0.5
    got = encoder_factory("mean-conch_v15")({"features": torch.from_numpy(features)}).numpy()
    assert got.shape == (1, case["dim_in"])
    assert np.linalg.norm(got[0] - expected.ravel()) <= 5e-5 * np.linalg.norm(expected)


def test_shapes_and_types() -> None:
    encoder = encoder_factory("mean-uni_v1")
    features = torch.rand(5, 1024).half()
    assert encoder({"features": features}).shape == (1024,)
    assert encoder({"features": features.unsqueeze(0)}, "cpu").shape == (1, 1024)
    assert encoder({"features": features}).dtype is torch.float32
    assert (encoder.embedding_dim, encoder.weights_sha256, encoder.training) == (1024, None, False)


def test_no_patches_give_zeros() -> None:
    got = encoder_factory("mean-resnet50")({"features": torch.empty(1, 0, 1024)})
    assert torch.equal(got, torch.zeros(1, 1024))


@pytest.mark.parametrize("name", AVAILABLE_SLIDE_ENCODERS)
def test_every_available_name_builds(name: str) -> None:
    assert encoder_factory(name).enc_name == name


@pytest.mark.parametrize(
    ("name", "options", "error", "expected"),
    [
        ("titan", {}, NotAvailableError, "not available"),
        ("mean-uni", {}, SettingsError, "did you mean"),
        ("mean-uni_v1", {"weights_path": "w.bin"}, SettingsError, "has no weights"),
        ("mean-uni_v1", {"heads": 2}, SettingsError, "no option heads"),
    ],
)
def test_refused(name: str, options: dict[str, object], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        encoder_factory(name, **options)  # type: ignore[arg-type]
