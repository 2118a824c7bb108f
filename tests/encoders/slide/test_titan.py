"""trident/encoders/slide/titan.py: the stored output, a direct dense computation, the grid, and the weights file.

Most tests make the network thinner, to be quick; its depth and heads stay.
"""

from __future__ import annotations

import json
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

from trident.encoders.slide import titan
from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.network_encoder import SlidePatches
from trident.encoders.slide.registry import spec
from trident.errors import WeightsError

PATCH_PX = 1024
THIN = 96
PREFIX = "vision_encoder."

State = dict[str, Tensor]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    """Made-up weights of a thin network under their published names, large enough that every part matters."""
    monkeypatch.setattr(titan, "WIDTH", THIN)
    torch.manual_seed(0)
    made = {}
    for name, tensor in titan.TitanNetwork().state_dict().items():
        scale = 0.1 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
        made[PREFIX + name] = torch.randn_like(tensor) * scale + (1 if tensor.ndim == 1 and "weight" in name else 0)
    return made


def build(path: Path) -> SlideEncoder:
    return titan.build(replace(spec("titan"), input_dim=THIN, embedding_dim=THIN), path).eval()


@pytest.fixture
def encoder(state: State, tmp_path: Path) -> SlideEncoder:
    save_file(state, tmp_path / "thin.safetensors")
    return build(tmp_path / "thin.safetensors")


def lattice(n: int, columns: int, step: int) -> NDArray[np.int64]:
    index = np.arange(n)
    return np.stack([5000 + step * (index % columns), 7000 + step * (index // columns)], axis=1)


def draw(n: int, scale: float = 0.5, width: int = THIN) -> NDArray[np.float32]:
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


def dense(state: State, features: NDArray[np.float32], coords: NDArray[np.int64]) -> NDArray[np.float64]:
    """The whole computation in float64, with every distance at once and the grid as a dictionary."""
    w = {name.removeprefix(PREFIX): tensor.double() for name, tensor in state.items()}

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    grid: dict[tuple[int, int], NDArray[np.float64]] = {}
    x0, y0 = coords.min(axis=0).tolist()
    for (x, y), vector in zip(coords.tolist(), features.astype(np.float64), strict=True):
        cell = ((x - x0) // PATCH_PX, (y - y0) // PATCH_PX)
        grid[cell] = grid.get(cell, 0) + vector
    grid = {cell: vector for cell, vector in grid.items() if np.any(vector)}
    places = torch.tensor(list(grid), dtype=torch.float64)
    x = linear(torch.from_numpy(np.stack(list(grid.values()))), "patch_embed.0")
    x = torch.cat([w["cls_token"][0], functional.gelu(x)])
    length = len(x)
    distance = torch.zeros(length, length, dtype=torch.float64)
    distance[1:, 1:] = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
    width = len(w["norm.weight"])
    size = width // 12
    slopes = [2.0**-power for power in (1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5)]
    for layer in range(6):
        name = f"blocks.modules_list.{layer}"
        parts = linear(norm(x, f"{name}.norm1", 1e-6), f"{name}.attn.qkv").split(width, dim=1)
        heads = []
        for head, slope in enumerate(slopes):
            q, k, v = (part[:, size * head : size * head + size] for part in parts)
            heads.append((q @ k.T / size**0.5 - slope * distance).softmax(dim=1) @ v)
        x = x + linear(torch.cat(heads, dim=1), f"{name}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp.fc1"))
        x = x + linear(hidden, f"{name}.mlp.fc2")
    x = norm(x, "norm", 1e-6)
    keys = norm(x, "attn_pool_contrastive.ln_k", 1e-5)
    query = norm(w["attn_pool_contrastive.query"], "attn_pool_contrastive.ln_q", 1e-5)
    weights = w["attn_pool_contrastive.attn.in_proj_weight"].split(width)
    biases = w["attn_pool_contrastive.attn.in_proj_bias"].split(width)
    q, k, v = (one @ weight.T + bias for one, weight, bias in zip((query, keys, keys), weights, biases, strict=True))
    size = width // 8
    pooled = [
        (q[:, part] @ k[:, part].T / size**0.5).softmax(dim=1) @ v[:, part]
        for part in (slice(size * head, size * head + size) for head in range(8))
    ]
    return linear(torch.cat(pooled, dim=1), "attn_pool_contrastive.attn.out_proj")[0].numpy()


def test_stored_output(shared_reference: Path, shared_tools: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(shared_tools))
    try:
        import seeded_weights
    finally:
        sys.path.remove(str(shared_tools))
    case = json.loads((shared_reference / "expected" / "slide" / "index.json").read_text())["titan"]
    weights = tmp_path / "model.safetensors"
    save_file(seeded_weights.state_dict(json.loads((shared_reference / case["manifest"]).read_text())), weights)
    encoder = encoder_factory("titan", weights_path=weights)
    assert not encoder.training
    assert len(encoder.weights_sha256 or "") == 64
    got = embed(
        encoder,
        draw(case["n"], width=768),
        lattice(case["n"], case["cols"], case["patch_size_level0"]),
    )
    assert relative(got, np.load(shared_reference / "expected" / "slide" / "titan.npy")[0]) <= 5e-6


def test_published_names_and_shapes(shared_reference: Path) -> None:
    manifest = json.loads((shared_reference / "manifests" / "slide" / "titan.json").read_text())
    unused = set(manifest["not_needed_for_embedding"])
    published = {name: shape for name, (_, shape) in manifest["tensors"].items() if name not in unused}
    own = titan.TitanNetwork().state_dict()
    assert {PREFIX + name: list(tensor.shape) for name, tensor in own.items()} == published


@pytest.mark.parametrize(
    ("scale", "biases"),
    [(0.5, 12 * 90 * 7), (2, titan.MAX_BIASES), (8, 12 * 90 * 7)],
    ids=["blocks", "x4, at once", "x16, blocks"],
)
def test_equals_the_dense_computation(
    encoder: SlideEncoder, state: State, scale: float, biases: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Irregular places, cells that patches share, and patches that are zero throughout."""
    monkeypatch.setattr(titan, "MAX_BIASES", biases)
    rng = np.random.default_rng(1)
    features, coords = draw(90, scale), rng.integers(0, 30 * PATCH_PX, (90, 2))
    coords[40:52] = coords[:12] // PATCH_PX * PATCH_PX + rng.integers(0, 10, (12, 2))
    features[[3, 60, 61]] = 0
    features[41] = -features[1]  # of one cell or of two: a sum of zero is background, too
    assert relative(embed(encoder, features, coords), dense(state, features, coords)) <= 2e-5


def test_biases_are_made_by_blocks_of_queries(encoder: SlideEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spy(*inputs: Tensor, attn_mask: Tensor) -> Tensor:
        sizes.append((attn_mask.numel(), attn_mask.shape[-2]))
        return functional.scaled_dot_product_attention(*inputs, attn_mask=attn_mask)

    monkeypatch.setattr(
        titan, "functional", type("Spied", (), {**vars(functional), "scaled_dot_product_attention": spy})
    )
    whole = embed(encoder, draw(300), lattice(300, 20, PATCH_PX))
    assert sizes == [(12 * 301 * 301, 301)] * 6
    sizes.clear()
    monkeypatch.setattr(titan, "MAX_BIASES", 100_000)
    blocks = embed(encoder, draw(300), lattice(300, 20, PATCH_PX))
    assert max(size for size, _ in sizes) <= 100_000
    assert sum(queries for _, queries in sizes) == 6 * 301
    assert relative(blocks, whole) <= 1e-6


@pytest.mark.parametrize(
    "change",
    [
        lambda features, coords: (features[::-1].copy(), coords[::-1].copy()),
        lambda features, coords: (features, coords + np.array([123_457, -991])),
        lambda features, coords: (features, coords[:, ::-1].copy()),
        lambda features, coords: (np.concatenate([features, features[:5] * 0]), np.concatenate([coords, coords[:5]])),
    ],
    ids=["shuffled", "moved origin", "swapped axes", "zero patches added"],
)
def test_what_changes_nothing(encoder: SlideEncoder, change: Callable[..., tuple[NDArray, NDArray]]) -> None:
    features, coords = draw(60), lattice(60, 7, PATCH_PX)
    before = embed(encoder, features, coords)
    assert relative(embed(encoder, *change(features, coords)), before) <= 5e-6
    assert relative(embed(encoder, features, coords, PATCH_PX / 2), before) > 1e-3  # and the test can fail


def test_patches_of_a_cell_are_added_and_empty_cells_left_out() -> None:
    features = torch.tensor([[1.0, 2], [3, 4], [0, 0], [-1, 5], [1, -5], [7, 7]])
    coords = torch.tensor([[10, 10], [29, 10], [30, 10], [10, 30], [11, 31], [50, 90]])
    sums, cells = titan.occupied_cells(SlidePatches(features, coords, 20.0))
    assert dict(zip(map(tuple, cells.tolist()), sums.tolist(), strict=True)) == {(0, 0): [4, 6], (2, 4): [7, 7]}


def test_one_patch_none_and_background(encoder: SlideEncoder, state: State) -> None:
    one = embed(encoder, draw(1), np.array([[5000, 7000]]), 1024.0)
    assert relative(one, dense(state, draw(1), np.array([[5000, 7000]]))) <= 5e-6
    assert not embed(encoder, draw(0), np.empty((0, 2), np.int64)).any()
    assert not embed(encoder, np.zeros((3, THIN), np.float32), lattice(3, 2, PATCH_PX)).any()
    without_slides_axis = encoder(
        {
            "features": torch.from_numpy(draw(1)),
            "coords": torch.tensor([[5000, 7000]]),
            "attributes": {"patch_size_level0": np.int64(1024)},
        }
    )
    assert without_slides_axis.shape == (THIN,)
    assert np.allclose(without_slides_axis.detach().numpy(), one)


def test_epsilons() -> None:
    """Stored outputs do not show a wrong epsilon of the last norm."""
    network = titan.TitanNetwork()
    epsilons = {name: part.eps for name, part in network.named_modules() if isinstance(part, nn.LayerNorm)}
    assert len(epsilons) == 2 * 6 + 3
    assert {name for name, eps in epsilons.items() if eps == 1e-5} == {
        "attn_pool_contrastive.ln_q",
        "attn_pool_contrastive.ln_k",
    }
    assert {eps for name, eps in epsilons.items() if "attn_pool" not in name} == {1e-6}


def test_slopes() -> None:
    assert titan.alibi_slopes(8) == tuple(2.0**-power for power in range(1, 9))
    assert titan.alibi_slopes(12)[8:] == tuple(2.0**-power for power in (0.5, 1.5, 2.5, 3.5))
    assert titan.alibi_slopes(1) == (2.0**-8,)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_half_precision(encoder: SlideEncoder, dtype: torch.dtype, tolerance: float) -> None:
    """As on a GPU: parameters in float32, autocast around the call."""
    features, coords = draw(50), lattice(50, 7, PATCH_PX)
    with torch.autocast("cpu", dtype=dtype):
        half = embed(encoder, features, coords)
    assert 1e-6 < relative(half, embed(encoder, features, coords)) <= tolerance
    assert encoder.precision is torch.float16


def test_gradients_reach_every_tensor(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    trainable = build(tmp_path / "model.safetensors").train()
    batch = {
        "features": torch.from_numpy(draw(20)),
        "coords": torch.from_numpy(lattice(20, 5, PATCH_PX)),
        "attributes": {"patch_size_level0": PATCH_PX},
    }
    trainable(batch).sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in trainable.parameters())


def test_other_parts_of_the_file_are_not_read(state: State, tmp_path: Path) -> None:
    more = {
        "text_encoder.ln_final.weight": torch.ones(3),
        PREFIX + "proj": torch.ones(THIN, THIN),
        PREFIX + "attn_pool.query": torch.ones(128, THIN),
        "logit_scale": torch.ones(()),
    }
    torch.save({**state, **more}, tmp_path / "pytorch_model.bin")
    built = build(tmp_path / "pytorch_model.bin")
    assert {PREFIX + name for name in built.model.state_dict()} == set(state)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda state: state.pop(PREFIX + "norm.weight"), "1 of 86 tensors are missing: norm.weight"),
        (lambda state: state.update({PREFIX + "blocks.modules_list.6.norm1.bias": torch.ones(THIN)}), "unexpected"),
        (lambda state: state.update({PREFIX + "norm.bias": torch.ones(THIN + 1)}), "another shape"),
        (lambda state: [state.pop(name) for name in list(state)] and state.update(a=torch.ones(1)), "no tensor named"),
    ],
    ids=["missing", "unexpected", "shape", "another model"],
)
def test_wrong_weights(state: State, tmp_path: Path, damage: Callable[[State], object], expected: str) -> None:
    wrong = dict(state)
    damage(wrong)
    save_file(wrong, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=expected):
        build(tmp_path / "model.safetensors")
