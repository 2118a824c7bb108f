"""trident/encoders/slide/prism.py: a plain computation in float64, the shared layers, and the weights file.

There is no stored output. Most tests shrink the network, whose 54 attentions over 513 latents take ten seconds.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from trident.encoders.slide import prism
from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.registry import spec
from trident.errors import WeightsError

PREFIX = "image_resampler."

State = dict[str, Tensor]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network, 20 times thinner."""
    for name, value in (("PATCH_WIDTH", 96), ("WIDTH", 64), ("LATENTS", 9)):
        monkeypatch.setattr(prism, name, value)


def made_up_state() -> State:
    torch.manual_seed(0)
    made = {}
    for name, tensor in prism.PrismNetwork().state_dict().items():
        scale = 0.1 if tensor.ndim == 1 else 1.0 if name.endswith("latents") else tensor[0].numel() ** -0.5
        made[PREFIX + name] = torch.randn_like(tensor) * scale + (1 if tensor.ndim == 1 and "weight" in name else 0)
    return made


def build(state: State, path: Path) -> SlideEncoder:
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    return prism.build(replace(spec("prism"), input_dim=prism.PATCH_WIDTH, embedding_dim=prism.WIDTH), path).eval()


def published_names(state: State) -> State:
    """The state with every tensor under the name of each of the eight layers that uses it: 573 names for 87."""
    every = {}
    for name, tensor in state.items():
        every[name] = tensor
        first = 0 if ".tf." in name else 1
        if f".layers.{first}." in name:
            every |= {name.replace(f".layers.{first}.", f".layers.{layer}."): tensor for layer in range(first, 8)}
    return every


def plain(state: State, features: Tensor, heads: int = 8) -> Tensor:
    """The computation in float64, each of eight layers by its own names, one head after the other."""
    w = {name.removeprefix(PREFIX): tensor.double() for name, tensor in published_names(state).items()}
    tiles = features.double()

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def feed_forward(x: Tensor, name: str) -> Tensor:
        hidden = norm(x, f"{name}.norm") @ w[f"{name}.net.0.weight"].T + w[f"{name}.net.0.bias"]
        half = hidden.shape[1] // 2
        gated = hidden[:, :half] * functional.gelu(hidden[:, half:])
        return gated @ w[f"{name}.net.2.weight"].T + w[f"{name}.net.2.bias"]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.T / q.shape[1] ** 0.5).softmax(dim=1) @ v

    x = w["perceiver.latents"]
    width = x.shape[1]
    for layer in range(8):
        cross = f"perceiver.layers.{layer}.xattn"
        key_value = tiles @ w[f"{cross}.xattn.to_kv.weight"].T
        query = norm(x, f"{cross}.xattn.x_norm") @ w[f"{cross}.xattn.to_q.weight"].T
        x = x + attend(query, key_value[:, :width], key_value[:, width:]) @ w[f"{cross}.xattn.to_out.weight"].T
        x = x + feed_forward(x, f"{cross}.ff")
        for block in range(6):
            name = f"perceiver.layers.{layer}.tf.{block}"
            normed = norm(x, f"{name}.mhsa.norm")
            q, k, v = (normed @ part.T for part in w[f"{name}.mhsa.mha.in_proj_weight"].split(width))
            size = width // heads
            parts = [slice(size * head, size * head + size) for head in range(heads)]
            merged = torch.cat([attend(q[:, part], k[:, part], v[:, part]) for part in parts], dim=1)
            x = x + merged @ w[f"{name}.mhsa.mha.out_proj.weight"].T
            x = x + feed_forward(x, f"{name}.ff")
    return norm(x, "cls_norm")[0]


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("n", "scale"), [(1, 0.5), (40, 0.5), (40, 2), (40, 8), (3000, 0.5)])
def test_equals_the_plain_computation(tmp_path: Path, n: int, scale: float) -> None:
    state = made_up_state()
    encoder = build(state, tmp_path / "model.safetensors")
    features = torch.randn(n, 96) * scale
    with torch.inference_mode():
        got = encoder({"features": features[None]})[0]
        assert relative(encoder({"features": features.flip(0)}), got) <= 5e-6
    assert relative(got, plain(state, features)) <= 5e-6


def test_published_names_and_shapes(shared_reference: Path) -> None:
    manifest = json.loads((shared_reference / "manifests" / "slide" / "prism.json").read_text())
    unused = set(manifest["not_needed_for_embedding"])
    published = {name: shape for name, (_, shape) in manifest["tensors"].items() if name not in unused}
    with torch.device("meta"):
        own = prism.PrismNetwork().state_dict()
    assert {PREFIX + name: list(tensor.shape) for name, tensor in own.items()} == published
    aliases = published_names({name: torch.empty(0) for name in manifest["tensors"]})
    assert len(aliases) == len(manifest["tensors"]) + manifest["aliases"]["n_alias_names"]
    assert {PREFIX + prism.owner(name.removeprefix(PREFIX)) for name in aliases} == set(manifest["tensors"])


@pytest.mark.usefixtures("small")
def test_any_alias_is_accepted_and_the_lowest_layer_is_taken(tmp_path: Path) -> None:
    state = made_up_state()
    features = torch.randn(5, 96)
    expected = build(state, tmp_path / "once.safetensors")({"features": features})
    every = published_names(state)
    highest = {name: tensor + 1 if ".layers.7." in name else tensor for name, tensor in every.items()}
    all_names = build({**highest, "text_decoder.weight": torch.ones(3)}, tmp_path / "all.safetensors")
    assert torch.equal(all_names({"features": features}), expected)
    others = {
        name.replace(".layers.0.tf.", ".layers.5.tf.").replace(".layers.1.", ".layers.3."): tensor
        for name, tensor in state.items()
    }
    assert others.keys() != state.keys()
    assert torch.equal(build(others, tmp_path / "others.safetensors")({"features": features}), expected)


@pytest.mark.usefixtures("small")
def test_no_patches_give_zeros(tmp_path: Path) -> None:
    encoder = build(made_up_state(), tmp_path / "model.safetensors")
    assert torch.equal(encoder({"features": torch.empty(1, 0, 96)}), torch.zeros(1, 64))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    """As on a GPU: parameters in float32, autocast around the call."""
    encoder = build(made_up_state(), tmp_path / "model.safetensors")
    features = torch.randn(30, 96)
    with torch.inference_mode():
        expected = encoder({"features": features})
        with torch.autocast("cpu", dtype=dtype):
            got = encoder({"features": features})
    assert 1e-6 < relative(got.float(), expected) <= 5e-2


@pytest.mark.usefixtures("small")
def test_gradients_reach_every_tensor(tmp_path: Path) -> None:
    encoder = build(made_up_state(), tmp_path / "model.safetensors")
    encoder({"features": torch.randn(7, 96)}).sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in encoder.parameters())


@pytest.mark.usefixtures("small")
def test_wrong_weights(tmp_path: Path) -> None:
    state = made_up_state()
    del state[PREFIX + "perceiver.layers.1.xattn.xattn.to_q.weight"]
    with pytest.raises(WeightsError, match="1 of 85 tensors are missing"):
        build(state, tmp_path / "model.safetensors")


def test_epsilons() -> None:
    with torch.device("meta"):
        network = prism.PrismNetwork()
    norms = [part.eps for part in network.modules() if isinstance(part, nn.LayerNorm)]
    assert norms == [1e-5] * (1 + 2 * 2 + 6 * 2)


@pytest.mark.skipif(not os.environ.get("TRIDENT_TEST_LARGE"), reason="takes a minute; set TRIDENT_TEST_LARGE=1")
def test_full_size(shared_reference: Path, shared_tools: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(shared_tools))
    try:
        import seeded_weights
    finally:
        sys.path.remove(str(shared_tools))
    state = seeded_weights.state_dict(json.loads((shared_reference / "manifests" / "slide" / "prism.json").read_text()))
    save_file(state, tmp_path / "model.safetensors")
    encoder = encoder_factory("prism", weights_path=tmp_path)
    drawn = np.random.Generator(np.random.PCG64(0)).standard_normal((300, 2560)).astype(np.float32)
    for scale in (0.5, 2):
        features = torch.from_numpy(drawn * np.float32(scale))
        with torch.inference_mode():
            assert relative(encoder({"features": features}), plain(state, features)) <= 5e-6
