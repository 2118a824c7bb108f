"""trident/encoders/patch/models/conch.py: names, the stored fingerprint, and version 1.5 against a second reading."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.models import conch
from trident.encoders.patch.registry import spec
from trident.errors import SettingsError, WeightsError

LARGE = pytest.mark.skipif(
    not os.environ.get("TRIDENT_TEST_LARGE"), reason="gigabytes of made-up weights; set TRIDENT_TEST_LARGE=1"
)


@pytest.mark.parametrize("with_proj", [False, True])
def test_names_of_the_first_version(manifest: Callable[[str], dict[str, Tensor]], with_proj: bool) -> None:
    unused = spec("conch_v1").unused_weights + (() if with_proj else ("visual.proj_contrast",))
    published = {name: one.shape for name, one in manifest("conch_v1").items() if not name.startswith(unused)}
    network = conch.build_v1_network(with_proj=with_proj)
    assert {name: one.shape for name, one in network.state_dict().items()} == published


def test_names_of_version_15(manifest: Callable[[str], dict[str, Tensor]]) -> None:
    published = {name: one.shape for name, one in manifest("conch_v15").items()}
    assert {name: one.shape for name, one in conch.build_v15_network().state_dict().items()} == published


def test_first_version(
    tmp_path: Path, shared_reference: Path, seeded_state: Callable[..., dict[str, Tensor]], patch512: Image.Image
) -> None:
    expected = np.load(shared_reference / "expected" / "patch" / "conch_v1.npy")
    facts = json.loads((shared_reference / "expected" / "patch" / "index.json").read_text())["conch_v1"]
    # The text tower's large tensors are left out to save time; what remains of it must be ignored.
    state = seeded_state("conch_v1", without=("text.transformer.", "text.token_embedding."))
    assert "text.cls_emb" in state and "logit_scale" in state
    weights = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, weights)

    encoder = encoder_factory("conch_v1", weights_path=tmp_path)
    batch = encoder.eval_transforms(patch512.crop((0, 0, facts["crop"], facts["crop"]))).unsqueeze(0)
    with torch.inference_mode():
        got = encoder(batch)[0].numpy()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_options_of_the_first_version(draw: Callable[[nn.Module], dict[str, Tensor]], images: Tensor) -> None:
    state = draw(conch.build_v1_network(with_proj=True, depth=1))
    projection = state["visual.proj_contrast"]
    features = {}
    for with_proj, normalize in product((False, True), repeat=2):
        network = conch.build_v1_network(with_proj=with_proj, normalize=normalize, depth=1)
        wanted = network.state_dict()
        network.load_state_dict({name: one for name, one in state.items() if name in wanted}, assign=True)
        with torch.inference_mode():
            features[with_proj, normalize] = network.eval()(images[:1, :, :224, :224])
    plain = features[False, False]
    projected = plain @ projection
    assert torch.allclose(features[True, False], projected, atol=1e-5)
    assert torch.allclose(features[False, True], plain / plain.norm(), atol=1e-6)
    assert torch.allclose(features[True, True], projected / projected.norm(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "table", "width", "missing"),
    [("conch_v1", "visual.trunk.pos_embed", 768, "162 of 163"), ("conch_v15", "trunk.pos_embed", 1024, "351 of 352")],
)
def test_a_file_with_positions_only(tmp_path: Path, name: str, table: str, width: int, missing: str) -> None:
    torch.save({table: torch.zeros(1, 5, width)}, tmp_path / "weights.bin")
    with pytest.raises(WeightsError, match=f"{missing} tensors are missing") as caught:
        encoder_factory(name, weights_path=tmp_path / "weights.bin")
    assert "another shape" not in str(caught.value)  # a table of 2 x 2 tokens is resampled


def _second_reading(state: dict[str, Tensor], batch: Tensor) -> Tensor:
    """CONCH v1.5 with timm's own forward, on a position table that is enlarged beforehand, and a pooler by einsum."""
    trunk = {name.removeprefix("trunk."): one for name, one in state.items() if name.startswith("trunk.")}
    side = batch.shape[-1] // 16
    if side != 14:
        grid = trunk["pos_embed"][:, 1:].reshape(1, 14, 14, 1024).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(side + 0.1) / 14, mode="bicubic")
        assert grid.shape[2:] == (side, side)
        positions = grid.permute(0, 2, 3, 1).reshape(1, side * side, 1024)
        trunk["pos_embed"] = torch.cat([trunk["pos_embed"][:, :1], positions], dim=1)
    depth = 1 + max(int(name.split(".")[1]) for name in trunk if name.startswith("blocks."))
    vit: Any = timm.create_model(
        "vit_large_patch16_224", img_size=16 * side, init_values=1.0, num_classes=0, depth=depth
    ).eval()
    vit.load_state_dict(trunk)

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    pooler = "attn_pool_contrast"
    context = norm(vit.forward_features(batch), f"{pooler}.ln_k")
    query = norm(state[f"{pooler}.query"][0], f"{pooler}.ln_q")
    query = (state[f"{pooler}.to_q.weight"] @ query).reshape(8, 96)
    keys, values = (context @ state[f"{pooler}.to_kv.weight"].T).reshape(len(batch), -1, 2, 8, 96).unbind(2)
    weights = torch.softmax(torch.einsum("hd,bnhd->bhn", query, keys) / 96**0.5, dim=-1)
    pooled = torch.einsum("bhn,bnhd->bhd", weights, values).reshape(len(batch), 768)
    return norm(pooled @ state[f"{pooler}.to_out.weight"].T, "ln_contrast")


@pytest.mark.parametrize("side_px", [224, 448])
def test_version_15_against_a_second_reading(
    draw: Callable[[nn.Module], dict[str, Tensor]], images: Tensor, side_px: int
) -> None:
    network = conch.build_v15_network(depth=1)
    state = draw(network)
    network.load_state_dict(state, assign=True)
    batch = images[:1, :, :side_px, :side_px]
    with torch.inference_mode():
        got, expected = network.eval()(batch), _second_reading(state, batch)
    assert got.shape == (1, 768)
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()


@LARGE
def test_version_15_whole(
    tmp_path: Path, seeded_state: Callable[..., dict[str, Tensor]], patch512: Image.Image
) -> None:
    state = seeded_state("conch_v15")
    torch.save(state, tmp_path / "pytorch_model_vision.bin")
    for img_size, side_px in ((None, 448), (256, 256)):
        encoder = encoder_factory("conch_v15", weights_path=tmp_path, img_size=img_size)
        batch = encoder.eval_transforms(patch512).unsqueeze(0)
        assert batch.shape == (1, 3, side_px, side_px)
        with torch.inference_mode():
            got, expected = encoder(batch), _second_reading(state, batch)
        print(f"conch_v15 at {side_px} px: max abs difference {(got - expected).abs().max():.1e}")
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("conch_v1", {"img_size": 448}, "conch_v1 takes no custom img_size: it was made for 448 px"),
        ("conch_v1", {"with_proj": "yes"}, "with_proj='yes'"),
        ("conch_v15", {"img_size": 500}, "not a multiple of its token size, 16 px; try 496 or 512"),
        ("conch_v15", {"with_proj": True}, "conch_v15 has no option with_proj"),
    ],
)
def test_refused(name: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        encoder_factory(name, **options)
    assert expected in str(caught.value)
