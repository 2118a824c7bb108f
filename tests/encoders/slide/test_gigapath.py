"""trident/encoders/slide/gigapath.py: the stored output, a plain computation in float64, positions, weights file.

Most tests make the network thinner, to be quick; its depth and heads stay.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from trident.encoders.slide import gigapath
from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.network_encoder import SlidePatches
from trident.encoders.slide.registry import spec
from trident.errors import SettingsError, WeightsError

PATCH_PX = 512
THIN, THIN_PATCH = 96, 64

State = dict[str, Tensor]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    """Made-up weights of a thin network under their published names, large enough that every part matters."""
    monkeypatch.setattr(gigapath, "WIDTH", THIN)
    monkeypatch.setattr(gigapath, "PATCH_WIDTH", THIN_PATCH)
    torch.manual_seed(0)
    made = {}
    for name, tensor in gigapath.GigaPathNetwork().state_dict().items():
        scale = 0.1 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
        made[name] = torch.randn_like(tensor) * scale + (1 if tensor.ndim == 1 and "weight" in name else 0)
    return made


def build(path: Path) -> SlideEncoder:
    return gigapath.build(replace(spec("gigapath"), input_dim=THIN_PATCH, embedding_dim=THIN), path).eval()


@pytest.fixture
def encoder(state: State, tmp_path: Path) -> SlideEncoder:
    torch.save({"model": state, "epoch": 7}, tmp_path / "thin.pth")
    return build(tmp_path / "thin.pth")


def lattice(n: int, columns: int, step: int = PATCH_PX) -> NDArray[np.int64]:
    index = np.arange(n)
    return np.stack([5000 + step * (index % columns), 7000 + step * (index // columns)], axis=1)


def draw(n: int, scale: float = 0.5, width: int = THIN_PATCH) -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(0)).standard_normal((n, width)).astype(np.float32) * np.float32(scale)


def embed(
    encoder: SlideEncoder, features: NDArray[np.float32], coords: NDArray[np.int64], patch_px: float = PATCH_PX
) -> NDArray[np.float32]:
    batch = {
        "features": torch.from_numpy(features)[None],
        "coords": torch.from_numpy(coords)[None],
        "attributes": {"patch_size_level0": patch_px},
    }
    with torch.inference_mode():
        return encoder(batch).float().numpy()[0]


def relative(got: NDArray[np.float32], expected: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def padded_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each segment of each branch and head by itself, padded with zeros: (length, 16, d) -> the same."""
    length = len(q)
    outputs, totals = [], []
    for segment, ratio in ((1024, 1), (5792, 2), (32768, 4), (185363, 8), (1048576, 16)):
        size = min(segment, length)
        out, total = torch.zeros_like(q), torch.full((length, 16), -math.inf, dtype=q.dtype)
        whole = [functional.pad(one, (0, 0, 0, 0, 0, -length % size)) for one in (q, k, v)]
        for start in range(0, length, size):
            cut = [functional.pad(one[start : start + size], (0, 0, 0, 0, 0, -size % ratio)) for one in whole]
            for head in range(16):
                phase = head // (16 // ratio)
                query, key, value = (one[phase::ratio, head] for one in cut)
                scores = query @ key.T / q.shape[2] ** 0.5
                places = torch.arange(start + phase, start + len(cut[0]), ratio)
                real = places < min(start + size, length)
                out[places[real], head] = (scores.softmax(dim=1) @ value)[real]
                total[places[real], head] = scores.logsumexp(dim=1)[real]
        outputs.append(out)
        totals.append(total)
    shares = torch.stack(totals).softmax(dim=0)
    return (torch.stack(outputs) * shares[..., None]).sum(dim=0)


def plain(
    state: State, features: NDArray[np.float32], coords: NDArray[np.int64], dtype: torch.dtype = torch.float64
) -> NDArray[np.floating]:
    """The whole computation, by published names."""
    w = {name: tensor.to(dtype) for name, tensor in state.items()}

    def norm(x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    width = len(w["norm.weight"])
    cells = coords // PATCH_PX
    frequencies = 10000 ** (-np.arange(width // 4) / (width // 4))
    by_y, by_x = cells[:, 1:] * frequencies, cells[:, :1] * frequencies
    positions = np.concatenate([np.sin(by_y), np.cos(by_y), np.sin(by_x), np.cos(by_x)], axis=1)
    x = linear(torch.from_numpy(features).to(dtype), "patch_embed.proj") + torch.from_numpy(positions).to(dtype)
    x = torch.cat([w["cls_token"][0], x])
    for layer in range(11):
        name = f"encoder.layers.{layer}"
        normed = norm(x, f"{name}.self_attn_layer_norm")
        q, k, v = (linear(normed, f"{name}.self_attn.{part}_proj").reshape(-1, 16, width // 16) for part in "qkv")
        attended = padded_attention(q, k, v).reshape(-1, width)
        x = x + linear(norm(attended, f"{name}.self_attn.inner_attn_ln"), f"{name}.self_attn.out_proj")
        hidden = functional.gelu(linear(norm(x, f"{name}.final_layer_norm"), f"{name}.ffn.fc1"))
        x = x + linear(norm(hidden, f"{name}.ffn.ffn_layernorm"), f"{name}.ffn.fc2")
    return norm(x[1:].mean(dim=0), "norm", 1e-6).numpy()


def seeded(shared_reference: Path, shared_tools: Path) -> State:
    sys.path.insert(0, str(shared_tools))
    try:
        import seeded_weights
    finally:
        sys.path.remove(str(shared_tools))
    manifest = json.loads((shared_reference / "manifests" / "slide" / "gigapath.json").read_text())
    return seeded_weights.state_dict(manifest)


def test_stored_output(shared_reference: Path, shared_tools: Path, tmp_path: Path) -> None:
    case = json.loads((shared_reference / "expected" / "slide" / "index.json").read_text())["gigapath"]
    torch.save({"model": seeded(shared_reference, shared_tools)}, tmp_path / "slide_encoder.pth")
    got = embed(
        encoder_factory("gigapath", weights_path=tmp_path),
        draw(case["n"], width=1536),
        lattice(case["n"], case["cols"], case["patch_size_level0"]),
    )
    assert relative(got, np.load(shared_reference / "expected" / "slide" / "gigapath.npy")[0]) <= 5e-6


def test_published_names_and_shapes(shared_reference: Path) -> None:
    manifest = json.loads((shared_reference / "manifests" / "slide" / "gigapath.json").read_text())
    unused = set(manifest["not_needed_for_TRIDENT_embedding"])
    published = {name: shape for name, (_, shape) in manifest["tensors"].items() if name not in unused}
    own = gigapath.GigaPathNetwork().state_dict()
    assert {name: list(tensor.shape) for name, tensor in own.items()} == published


@pytest.mark.parametrize(("n", "scale"), [(1, 0.5), (75, 0.5), (75, 8)])
def test_equals_the_plain_computation(encoder: SlideEncoder, state: State, n: int, scale: float) -> None:
    features, coords = draw(n, scale), lattice(n, 9)
    assert relative(embed(encoder, features, coords), plain(state, features, coords)) <= 5e-6


@pytest.mark.skipif(not os.environ.get("TRIDENT_TEST_LARGE"), reason="takes minutes; set TRIDENT_TEST_LARGE=1")
@pytest.mark.parametrize("n", [2500, 6500])
def test_slides_of_several_segments(shared_reference: Path, shared_tools: Path, tmp_path: Path, n: int) -> None:
    weights = seeded(shared_reference, shared_tools)
    torch.save({"model": weights}, tmp_path / "slide_encoder.pth")
    features, coords = draw(n, width=1536), lattice(n, 60)
    got = embed(encoder_factory("gigapath", weights_path=tmp_path), features, coords)
    with torch.inference_mode():
        assert relative(got, plain(weights, features, coords, torch.float32)) <= 1e-5


def test_places_are_absolute_and_whole_patches(encoder: SlideEncoder) -> None:
    features, coords = draw(30), lattice(30, 7)
    before = embed(encoder, features, coords)
    # 5000 is the 393rd pixel of its patch, 7000 the 345th.
    assert np.array_equal(embed(encoder, features, coords + 119), before)
    assert np.array_equal(embed(encoder, features, coords, 512.0), before)
    assert relative(embed(encoder, features, coords + PATCH_PX), before) > 1e-3
    assert relative(embed(encoder, features, coords[:, ::-1].copy()), before) > 1e-3


def test_positions() -> None:
    y, x = (axis.ravel() for axis in np.mgrid[0:37, 0:37])
    cells = torch.from_numpy(np.stack([x, y], axis=1))
    got = gigapath.position_embeddings(cells).numpy()
    assert got.shape == (37 * 37, 768)
    for i in (0, 1, 100, 191):
        frequency = 10000 ** (-i / 192)
        for start, function, axis in ((0, np.sin, y), (192, np.cos, y), (384, np.sin, x), (576, np.cos, x)):
            np.testing.assert_allclose(got[:, start + i], function(axis * frequency), atol=1e-7)


@pytest.mark.parametrize("coords", [[[999, 999]], [[0, 0]]])
def test_outermost_cells(coords: list[list[int]]) -> None:
    patches = SlidePatches(torch.zeros(1, 1536), torch.tensor(coords) * PATCH_PX, PATCH_PX)
    assert gigapath.grid_cells(patches).tolist() == coords


@pytest.mark.parametrize("coords", [[1000, 0], [3, 1000], [-1, 5]])
def test_beyond_the_positions_that_it_knows(encoder: SlideEncoder, coords: list[int]) -> None:
    with pytest.raises(SettingsError, match="1000 x 1000 positions"):
        embed(encoder, draw(2), np.array([[0, 0], coords]) * PATCH_PX)


def test_no_patches_give_zeros(encoder: SlideEncoder) -> None:
    got = embed(encoder, draw(0), np.empty((0, 2), np.int64))
    assert got.shape == (THIN,)
    assert not got.any()


def test_epsilons() -> None:
    """Stored outputs do not show a wrong epsilon of the last norm."""
    network = gigapath.GigaPathNetwork()
    epsilons = {name: part.eps for name, part in network.named_modules() if isinstance(part, nn.LayerNorm)}
    assert len(epsilons) == 4 * 11 + 1
    assert {name for name, eps in epsilons.items() if eps == 1e-6} == {"norm"}
    assert {eps for name, eps in epsilons.items() if name != "norm"} == {1e-5}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_half_precision(encoder: SlideEncoder, dtype: torch.dtype, tolerance: float) -> None:
    """As on a GPU: parameters in float32, autocast around the call."""
    features, coords = draw(30), lattice(30, 7)
    with torch.autocast("cpu", dtype=dtype):
        half = embed(encoder, features, coords)
    assert 1e-6 < relative(half, embed(encoder, features, coords)) <= tolerance


def test_gradients_reach_every_tensor(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "slide_encoder.safetensors")
    trainable = build(tmp_path / "slide_encoder.safetensors").train()
    batch = {
        "features": torch.from_numpy(draw(20)),
        "coords": torch.from_numpy(lattice(20, 5)),
        "attributes": {"patch_size_level0": PATCH_PX},
    }
    (trainable(batch) * torch.arange(THIN)).sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in trainable.parameters())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("encoder.layers.3.ffn.fc1.weight"), "1 of 225 tensors are missing"),
        (lambda state: state.update({"norm.bias": torch.ones(3)}), "another shape"),
        (lambda state: state.update({"decoder.weight": torch.ones(3)}), "unexpected: decoder.weight"),
    ],
    ids=["missing", "shape", "unexpected"],
)
def test_wrong_weights(state: State, tmp_path: Path, change: Callable[[State], object], expected: str) -> None:
    wrong = dict(state)
    change(wrong)
    torch.save({"model": wrong}, tmp_path / "slide_encoder.pth")
    with pytest.raises(WeightsError, match=expected):
        build(tmp_path / "slide_encoder.pth")
