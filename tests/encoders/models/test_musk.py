"""trident/encoders/patch/models/musk.py: names, and the network against the published description written out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.models import musk
from trident.encoders.patch.registry import spec
from trident.errors import SettingsError


@pytest.mark.parametrize("with_proj", [False, True])
def test_names(manifest: Callable[[str], dict[str, Tensor]], with_proj: bool) -> None:
    unused = spec("musk").unused_weights + (() if with_proj else ("vision_head.",))
    renamed = {name: one.shape for name, one in musk.rename(manifest("musk")).items() if not name.startswith(unused)}
    network = musk.build_network(with_proj=with_proj)
    assert {name: one.shape for name, one in network.state_dict().items()} == renamed


def test_only_the_experts_for_images_are_kept() -> None:
    one = torch.zeros(1)
    published = ("encoder.layers.3.ffn.A.fc1.weight", "encoder.layers.3.ffn.B.fc1.weight", "embed_positions.B.weight")
    assert musk.rename(dict.fromkeys(published, one)) == {"encoder.layers.3.ffn.fc1.weight": one}


def _written_out(state: Mapping[str, Tensor], batch: Tensor) -> Tensor:
    """Class token (B, 1024) of BEiT-3's image path, from the names in `state`."""
    weights = {name.removeprefix("beit3."): one for name, one in state.items()}

    def linear(values: Tensor, name: str) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    cut = F.unfold(batch, 16, stride=16).transpose(1, 2)
    patches = cut @ weights["vision_embed.proj.weight"].flatten(1).T + weights["vision_embed.proj.bias"]
    tokens = torch.cat([weights["vision_embed.cls_token"].expand(len(batch), 1, 1024), patches], dim=1)
    tokens = tokens + weights["encoder.embed_positions.weight"][2:579]
    n = 0
    while f"encoder.layers.{n}.self_attn.q_proj.weight" in weights:
        layer = f"encoder.layers.{n}"
        normed = norm(tokens, f"{layer}.self_attn_layer_norm")
        query, key, value = (
            linear(normed, f"{layer}.self_attn.{part}_proj").reshape(len(batch), 577, 16, 64) for part in "qkv"
        )
        attention = torch.einsum("bqhd,bkhd->bhqk", query, key).div(8).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", attention, value).reshape(len(batch), 577, 1024)
        tokens = tokens + linear(norm(mixed, f"{layer}.self_attn.inner_attn_ln"), f"{layer}.self_attn.out_proj")
        hidden = linear(norm(tokens, f"{layer}.final_layer_norm"), f"{layer}.ffn.fc1")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        tokens = tokens + linear(norm(hidden, f"{layer}.ffn.ffn_layernorm"), f"{layer}.ffn.fc2")
        n += 1
    assert n > 0
    return norm(tokens, "encoder.layer_norm")[:, 0]


def test_network(draw: Callable[[nn.Module], dict[str, Tensor]], images: Tensor) -> None:
    network = musk.build_network(depth=1)
    state = draw(network)
    network.load_state_dict(state, assign=True)
    batch = images[..., :384, :384]
    with torch.inference_mode():
        got, expected = network.eval()(batch), _written_out(state, batch)
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()
    assert (got[0] - got[1]).abs().max() > 0.1


def test_options(draw: Callable[[nn.Module], dict[str, Tensor]], images: Tensor) -> None:
    projecting = musk.build_network(with_proj=True, depth=1)
    state = draw(projecting)
    projecting.load_state_dict(state, assign=True)
    head = state.pop("vision_head.weight")
    two_scales = musk.build_network(inference_aug=True, depth=1)
    two_scales.load_state_dict(state, assign=True)
    batch = images[:1, :, :384, :384]
    large = F.interpolate(batch, size=(768, 768), mode="bicubic")
    quarters = torch.cat([large[..., y : y + 384, x : x + 384] for y in (0, 384) for x in (0, 384)])
    with torch.inference_mode():
        plain = _written_out(state, batch)
        joined = torch.cat([plain, _written_out(state, quarters).mean(0, keepdim=True)], dim=1)
        got = two_scales.eval()(batch)
        assert got.shape == (1, 2048)
        assert (got - joined).abs().max() < 2e-5 * joined.abs().max()
        assert torch.allclose(projecting.eval()(batch), plain @ head.T, atol=1e-5)


def test_refused() -> None:
    with pytest.raises(SettingsError, match="with_proj or inference_aug, not both"):
        musk.build_network(with_proj=True, inference_aug=True)
    with pytest.raises(SettingsError, match="position table is made for 384 px"):
        encoder_factory("musk", img_size=224)


def test_declared_dimensions() -> None:
    declared = spec("musk")
    assert declared.embedding_dim_for({"with_proj": True, "inference_aug": False}) == 1024
    assert declared.embedding_dim_for({"with_proj": False, "inference_aug": True}) == 2048


@pytest.mark.skipif(
    not os.environ.get("TRIDENT_TEST_LARGE"), reason="gigabytes of made-up weights; set TRIDENT_TEST_LARGE=1"
)
def test_whole(tmp_path: Path, seeded_state: Callable[..., dict[str, Tensor]], patch512: Image.Image) -> None:
    state = seeded_state("musk", without=("beit3.text_embed.",))
    save_file(state, tmp_path / "model.safetensors")
    encoder = encoder_factory("musk", weights_path=tmp_path)
    batch = encoder.eval_transforms(patch512).unsqueeze(0)
    assert batch.shape == (1, 3, 384, 384)
    with torch.inference_mode():
        got, expected = encoder(batch), _written_out(musk.rename(state), batch)
    print(f"musk: max abs difference {(got - expected).abs().max():.1e}")
    assert (got - expected).abs().max() <= 2e-5 * expected.abs().max()
