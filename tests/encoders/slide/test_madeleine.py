"""trident/encoders/slide/madeleine.py: interleaved heads, prefixes, and the configuration beside the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.madeleine import CONFIG_NAME, MadeleineNetwork
from trident.errors import WeightsError

CONFIG: dict[str, Any] = {
    "MODALITIES": ["HE", "HER2", "PGR", "KI67", "ER"],
    "wsi_encoder": "abmil",
    "patch_embedding_dim": 512,
    "wsi_encoder_hidden_dim": 512,
    "activation": "softmax",
    "n_heads": 4,
    "precision": "bfloat16",
}


def _in_numpy(state: dict[str, Tensor], features: Tensor) -> np.ndarray:
    """Written from the channels' definition: channel j is position j // 4 of head j % 4, before and after pooling."""
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in state.items()}
    hidden = features[0].numpy().astype(np.float64)
    erf = np.vectorize(math.erf)
    for linear, norm in ((0, 1), (4, 5), (8, 9)):
        at = "wsi_embedders.pre_attn"
        hidden = hidden @ w[f"{at}.{linear}.weight"].T + w[f"{at}.{linear}.bias"]
        hidden = (hidden - hidden.mean(axis=1, keepdims=True)) / np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-5)
        hidden = hidden * w[f"{at}.{norm}.weight"] + w[f"{at}.{norm}.bias"]
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
    pooled = np.zeros(2048)
    for head in range(4):
        own = [channel for channel in range(2048) if channel % 4 == head]
        at, x = f"wsi_embedders.attn.{head}", hidden[:, own]
        a = np.tanh(x @ w[f"{at}.attention_a.0.weight"].T + w[f"{at}.attention_a.0.bias"])
        b = 1 / (1 + np.exp(-(x @ w[f"{at}.attention_b.0.weight"].T + w[f"{at}.attention_b.0.bias"])))
        score = (a * b) @ w[f"{at}.attention_c.weight"][0] + w[f"{at}.attention_c.bias"]
        weight = np.exp(score - score.max())
        pooled[own] = weight @ x / weight.sum()
    return (w["projector.weight"] @ pooled + w["projector.bias"])[np.newaxis]


def test_tensors(manifests: Callable[[str], dict[str, Any]]) -> None:
    with torch.device("meta"):
        own = {name: list(tensor.shape) for name, tensor in MadeleineNetwork().state_dict().items()}
    published = {name: shape for name, (_, shape) in manifests("madeleine")["tensors"].items()}
    assert own == {name: shape for name, shape in published.items() if not name.startswith("token_projector.")}


def test_epsilons() -> None:
    norms = [module.eps for module in MadeleineNetwork().modules() if isinstance(module, nn.LayerNorm)]
    assert norms == [1e-5] * 3


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_second_computation(
    scale: float,
    seeded_state: Callable[[str], dict[str, Tensor]],
    seeded_file: Callable[[str], Path],
    bag: Callable[..., Tensor],
    relative_error: Callable[[Any, Any], float],
) -> None:
    encoder = encoder_factory("madeleine", weights_path=seeded_file("madeleine"))
    assert (encoder.precision, encoder.embedding_dim) == (torch.bfloat16, 512)
    features = bag(25, 512, scale)
    assert relative_error(encoder({"features": features}), _in_numpy(seeded_state("madeleine"), features)) < 5e-6


@pytest.mark.parametrize("prefixed", ["none", "all", "some"])
def test_module_prefix(
    prefixed: str, seeded_state: Callable[[str], dict[str, Tensor]], bag: Callable[..., Tensor], tmp_path: Path
) -> None:
    state = seeded_state("madeleine")
    odd = {"none": [], "all": list(state), "some": [name for name in state if name.startswith("wsi_embedders.")]}
    torch.save({f"module.{n}" if n in odd[prefixed] else n: t for n, t in state.items()}, tmp_path / "model.pt")
    encoder = encoder_factory("madeleine", weights_path=tmp_path)
    loaded = encoder.state_dict()
    assert all(torch.equal(loaded[f"model.{n}"], t) for n, t in state.items() if not n.startswith("token_projector."))


def _with_config(state: dict[str, Tensor], folder: Path, text: str) -> Path:
    torch.save(state, folder / "model.pt")
    (folder / CONFIG_NAME).write_text(text)
    return folder / "model.pt"


@pytest.mark.parametrize(
    ("change", "precision"),
    [({}, torch.bfloat16), ({"precision": "float32"}, torch.float32), ({"precision": None}, torch.bfloat16)],
)
def test_configuration_is_read(
    change: dict[str, Any],
    precision: torch.dtype,
    seeded_state: Callable[[str], dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    path = _with_config(seeded_state("madeleine"), tmp_path, json.dumps(CONFIG | change))
    assert encoder_factory("madeleine", weights_path=path).precision is precision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps(CONFIG | {"n_heads": 8}), "n_heads is 8 instead of 4"),
        (json.dumps(CONFIG | {"activation": "relu"}), "activation is 'relu' instead of 'softmax'"),
        (json.dumps(CONFIG | {"precision": "float8"}), "precision 'float8' is none of float32, float16, bfloat16"),
        ("{", "not readable as JSON"),
        ("[]", "holds a list instead of an object"),
    ],
)
def test_configuration_is_refused(
    text: str, expected: str, seeded_state: Callable[[str], dict[str, Tensor]], tmp_path: Path
) -> None:
    path = _with_config(seeded_state("madeleine"), tmp_path, text)
    with pytest.raises(WeightsError, match=f"{CONFIG_NAME}: .*{expected}"):
        encoder_factory("madeleine", weights_path=path)
