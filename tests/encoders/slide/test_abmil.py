"""trident/encoders/slide/abmil.py: the published shapes, a second computation, training, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trident.encoders.slide.abmil import ABMILSlideEncoder
from trident.encoders.slide.factory import encoder_factory
from trident.errors import SettingsError, WeightsError

MANIFESTS = ["abmil", "abmil_h2", "abmil_nogate"]


def _arguments(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict(manifest["reference"]["args"])


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def _in_numpy(state: dict[str, Tensor], features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in state.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        mapped: np.ndarray = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        return mapped

    hidden = _gelu(linear("pre_attention_layers.0", features[0].numpy().astype(np.float64)))
    scores, pooled = [], []
    head = 0
    while f"image_pooler.attention_heads.{head}.0.weight" in w:
        attended = np.tanh(linear(f"image_pooler.attention_heads.{head}.0", hidden))
        if f"image_pooler.gating_layers.{head}.0.weight" in w:
            attended = attended / (1 + np.exp(-linear(f"image_pooler.gating_layers.{head}.0", hidden)))
        score = linear(f"image_pooler.branching_layers.{head}", attended)[:, 0]
        weight = np.exp(score - score.max())
        scores.append(score)
        pooled.append(weight @ hidden / weight.sum())
        head += 1
    joined = np.concatenate(pooled)
    if head > 1:
        joined = linear("image_pooler.condensing_layer", joined)
    return _gelu(linear("post_attention_layers.0", joined))[np.newaxis], np.stack(scores)[np.newaxis]


@pytest.mark.parametrize("name", MANIFESTS)
def test_tensors(name: str, manifests: Callable[[str], dict[str, Any]]) -> None:
    manifest = manifests(name)
    with torch.device("meta"):
        encoder = ABMILSlideEncoder(**_arguments(manifest))
    own = {name: list(tensor.shape) for name, tensor in encoder.model.state_dict().items()}
    assert own == {name: shape for name, (_, shape) in manifest["tensors"].items()}


def test_stored_output(
    seeded_file: Callable[[str], Path],
    bag: Callable[..., Tensor],
    stored: Callable[[str], np.ndarray],
    relative_error: Callable[[Any, Any], float],
) -> None:
    encoder = encoder_factory("abmil", weights_path=seeded_file("abmil_h2"))
    assert relative_error(encoder({"features": bag(300, 768)}, "cpu"), stored("abmil_h2")) < 5e-6


@pytest.mark.parametrize("name", MANIFESTS)
def test_second_computation(
    name: str,
    manifests: Callable[[str], dict[str, Any]],
    seeded_state: Callable[[str], dict[str, Tensor]],
    seeded_file: Callable[[str], Path],
    bag: Callable[..., Tensor],
    relative_error: Callable[[Any, Any], float],
) -> None:
    arguments = _arguments(manifests(name))
    encoder = encoder_factory("abmil", weights_path=seeded_file(name), **arguments)
    features = bag(60, arguments["input_feature_dim"])
    wanted, wanted_scores = _in_numpy(seeded_state(name), features)
    got, scores = encoder({"features": features}, return_raw_attention=True)
    assert relative_error(got, wanted) < 5e-6
    assert relative_error(scores, wanted_scores) < 5e-6
    assert scores.shape == (1, arguments["n_heads"], 60)
    assert torch.equal(encoder({"features": features}), got)


@pytest.mark.parametrize("name", MANIFESTS)
def test_sizes_are_read_from_the_weights(
    name: str, manifests: Callable[[str], dict[str, Any]], seeded_file: Callable[[str], Path]
) -> None:
    arguments = _arguments(manifests(name))
    encoder = encoder_factory("abmil", weights_path=seeded_file(name))
    assert (encoder.embedding_dim, encoder.input_dim) == (arguments["input_feature_dim"],) * 2
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_raw_attention_of_no_patches_and_of_one_slide() -> None:
    encoder = ABMILSlideEncoder(8, n_heads=3, head_dim=4, freeze=True)
    embedding, scores = encoder({"features": torch.empty(0, 8)}, return_raw_attention=True)
    assert (embedding.tolist(), scores.shape) == ([0.0] * 8, (3, 0))
    assert encoder({"features": torch.randn(5, 8)}, return_raw_attention=True)[1].shape == (3, 5)


def test_seed_decides_the_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(ABMILSlideEncoder(8, head_dim=4).state_dict())
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("n_heads", "gated"), [(1, True), (2, False)])
def test_it_learns(n_heads: int, gated: bool) -> None:
    """Bags with one marked patch among thirty are told from bags without; every parameter has a gradient."""
    torch.manual_seed(0)
    encoder = ABMILSlideEncoder(16, n_heads=n_heads, head_dim=8, dropout=0.1, gated=gated)
    head = nn.Linear(16, 1)
    parameters = [*encoder.parameters(), *head.parameters()]
    mark = torch.zeros(16)
    mark[3] = 5.0

    def draw() -> tuple[Tensor, Tensor]:
        labels = torch.arange(32) % 2
        bags = torch.randn(32, 30, 16)
        bags[:, 7] += mark * labels.unsqueeze(-1)
        return bags, labels.float()

    assert encoder.training
    for _ in range(150):
        bags, labels = draw()
        loss = nn.functional.binary_cross_entropy_with_logits(head(encoder({"features": bags})).squeeze(-1), labels)
        # By hand: importing torch's optimizers takes longer than all of this.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 3e-3 * gradient.sign()
    bags, labels = draw()
    embedding, scores = encoder.eval()({"features": bags}, return_raw_attention=True)
    assert ((head(embedding).squeeze(-1) > 0) == labels.bool()).float().mean() > 0.8
    found = scores[labels.bool()].max(dim=1).values if n_heads > 1 else scores[labels.bool(), 0]
    assert (found.argmax(dim=-1) == 7).float().mean() > 0.8


def test_factory_for_training() -> None:
    encoder = encoder_factory(
        "abmil", freeze=False, input_feature_dim=8, head_dim=4, n_heads=2, dropout=0.5, gated=True
    )
    assert encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.weights_sha256 is None
    drops = {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)}
    assert drops == {0.5}


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_own_weights_come_back(prefix: str, tmp_path: Path) -> None:
    trained = ABMILSlideEncoder(8, n_heads=2, head_dim=4).eval()
    torch.save({f"{prefix}{name}": tensor for name, tensor in trained.model.state_dict().items()}, tmp_path / "w.pt")
    features = {"features": torch.randn(1, 6, 8)}
    assert torch.equal(encoder_factory("abmil", weights_path=tmp_path / "w.pt")(features), trained(features))


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        (
            {},
            WeightsError,
            "abmil needs weights that are not on the hub: train it .*; for a new one, .*input_feature_dim",
        ),
        ({"n_heads": 2}, WeightsError, "give input_feature_dim"),
        ({"input_feature_dim": 0}, SettingsError, "input_feature_dim 0 is not a positive whole number"),
        ({"input_feature_dim": 8, "n_heads": 1.5}, SettingsError, "n_heads 1.5 is not"),
        ({"input_feature_dim": 8, "head_dim": True}, SettingsError, "head_dim True is not"),
        ({"input_feature_dim": 8, "dropout": 1.0}, SettingsError, "dropout 1.0 is not a share"),
        ({"input_feature_dim": 8, "heads": 1}, SettingsError, "abmil has no option heads; its options are .*n_heads"),
    ],
)
def test_refused(options: dict[str, Any], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        encoder_factory("abmil", **options)


def test_the_class_takes_what_its_users_give() -> None:
    given: dict[str, Any] = {"input_feature_dim": 8, "n_heads": 2, "head_dim": 4, "dropout": 0.0, "gated": True}
    assert ABMILSlideEncoder(**given, pretrained=False).n_heads == 2
    with pytest.raises(SettingsError, match="abmil has no pretrained weights"):
        ABMILSlideEncoder(**given, pretrained=True)


def test_weights_of_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(ABMILSlideEncoder(8, head_dim=4).state_dict(), path)
    with pytest.raises(WeightsError, match="these weights have n_heads 1, not 2; gated True, not False"):
        encoder_factory("abmil", weights_path=path, n_heads=2, gated=False)
    save_file({"head.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="not the weights of abmil: there is no matrix image_pooler"):
        encoder_factory("abmil", weights_path=path)
