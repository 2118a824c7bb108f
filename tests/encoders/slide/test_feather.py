"""trident/encoders/slide/feather.py: both published models, and a second computation in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.feather import FeatherNetwork
from trident.errors import WeightsError

MODELS = {"feather": 768, "feather_uni_v2": 1536}


def _in_numpy(state: dict[str, Tensor], features: Tensor) -> np.ndarray:
    w = {name.removeprefix("model."): tensor.numpy().astype(np.float64) for name, tensor in state.items()}
    x = features[0].numpy().astype(np.float64)
    hidden = np.maximum(x @ w["patch_embed.0.weight"].T + w["patch_embed.0.bias"], 0)
    a = np.tanh(hidden @ w["global_attn.attention_a.0.weight"].T + w["global_attn.attention_a.0.bias"])
    b = 1 / (1 + np.exp(-(hidden @ w["global_attn.attention_b.0.weight"].T + w["global_attn.attention_b.0.bias"])))
    score = (a * b) @ w["global_attn.attention_c.weight"][0] + w["global_attn.attention_c.bias"]
    weight = np.exp(score - score.max())
    pooled: np.ndarray = (weight[:, np.newaxis] * hidden).sum(axis=0) / weight.sum()
    return pooled[np.newaxis]


@pytest.mark.parametrize(("name", "dim"), MODELS.items())
def test_tensors(name: str, dim: int, manifests: Callable[[str], dict[str, Any]]) -> None:
    with torch.device("meta"):
        own = {f"model.{name}": list(tensor.shape) for name, tensor in FeatherNetwork(dim).state_dict().items()}
    assert own == {name: shape for name, (_, shape) in manifests(name)["tensors"].items()}


def test_stored_output(
    seeded_file: Callable[[str], Path],
    bag: Callable[..., Tensor],
    stored: Callable[[str], np.ndarray],
    relative_error: Callable[[Any, Any], float],
) -> None:
    encoder = encoder_factory("feather", weights_path=seeded_file("feather"))
    assert relative_error(encoder({"features": bag(300, 768)}), stored("feather")) < 5e-6


@pytest.mark.parametrize("scale", [0.5, 8.0])
@pytest.mark.parametrize(("name", "dim"), MODELS.items())
def test_second_computation(
    name: str,
    dim: int,
    scale: float,
    seeded_state: Callable[[str], dict[str, Tensor]],
    seeded_file: Callable[[str], Path],
    bag: Callable[..., Tensor],
    relative_error: Callable[[Any, Any], float],
) -> None:
    encoder = encoder_factory(name, weights_path=seeded_file(name))
    features = bag(300, dim, scale)
    assert relative_error(encoder({"features": features}), _in_numpy(seeded_state(name), features)) < 5e-6


def test_a_classifier_in_the_file_changes_nothing(
    seeded_state: Callable[[str], dict[str, Tensor]], bag: Callable[..., Tensor], tmp_path: Path
) -> None:
    state = seeded_state("feather")
    torch.save(state, tmp_path / "pytorch_model.bin")
    plain = encoder_factory("feather", weights_path=tmp_path)
    state |= {"model.classifier.weight": torch.randn(108, 512), "model.classifier.bias": torch.randn(108)}
    save_file(state, tmp_path / "model.safetensors")
    with_head = encoder_factory("feather", weights_path=tmp_path)
    features = {"features": bag(20, 768)}
    assert torch.equal(with_head(features), plain(features))
    assert with_head.weights_sha256 != plain.weights_sha256


def test_weights_of_another(seeded_file: Callable[[str], Path]) -> None:
    with pytest.raises(WeightsError, match=r"patch_embed\.0\.weight is \(512, 1536\) instead of \(512, 768\)"):
        encoder_factory("feather", weights_path=seeded_file("feather_uni_v2"))
    with pytest.raises(WeightsError, match=r"not the weights of feather: its tensors begin with 'model\.'"):
        encoder_factory("feather", weights_path=seeded_file("chief"))
