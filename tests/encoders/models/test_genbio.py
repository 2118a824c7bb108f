"""trident/encoders/patch/models/genbio.py: names, rounded rotary positions, and the network against timm's DINOv3."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.models.eva import Eva
from torch import Tensor, nn

from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.models import genbio

PERIODS = 100 ** (2 * torch.arange(16, dtype=torch.bfloat16) / 32)
"""As they are published."""


def test_names_and_the_type_of_the_periods(manifest: Callable[[str], dict[str, Tensor]]) -> None:
    published = {name: (one.dtype, one.shape) for name, one in manifest("genbio-pathfm").items()}
    network = genbio.build_network()
    assert {name: (one.dtype, one.shape) for name, one in network.state_dict().items()} == published


def _bfloat16(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """The nearest bfloat16 of each value, ties to even, by the bits of float32."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("rows_columns", [(14, 14), (3, 5)])
def test_angles_are_rounded_at_every_step(rows_columns: tuple[int, int]) -> None:
    embedding = genbio.build_network(depth=1).rope_embed
    embedding.load_state_dict({"periods": PERIODS.float()}, assign=True)
    sine, cosine = embedding(*rows_columns)
    assert sine.dtype is cosine.dtype is torch.bfloat16

    def coordinates(count: int) -> NDArray[np.float32]:
        unit = _bfloat16((np.arange(count) + 0.5) / count)
        return _bfloat16(_bfloat16(2 * unit) - 1)

    rows, columns = (coordinates(count) for count in rows_columns)
    angles = np.empty((len(rows) * len(columns), 64), dtype=np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            turns = [_bfloat16(np.float32(2 * np.pi) * at) for at in (row, column)]
            half = np.concatenate([_bfloat16(turn / PERIODS.float().numpy()) for turn in turns])
            angles[i * len(columns) + j] = np.concatenate([half, half])
    assert np.array_equal(cosine.float().numpy(), _bfloat16(np.cos(angles)))
    assert np.array_equal(sine.float().numpy(), _bfloat16(np.sin(angles)))


def test_periods_are_loaded_and_not_computed() -> None:
    embedding = genbio.build_network(depth=1).rope_embed
    embedding.load_state_dict({"periods": PERIODS}, assign=True)
    usual = embedding(4, 4)[0]
    embedding.load_state_dict({"periods": PERIODS * 2}, assign=True)
    assert not torch.equal(usual, embedding(4, 4)[0])


def test_tokens_before_the_patches_are_rounded_and_not_turned() -> None:
    generator = torch.Generator().manual_seed(2)
    queries = torch.randn(1, 2, 5 + 6, 64, generator=generator)
    angles = torch.randn(6, 32, generator=generator).tile(2).to(torch.bfloat16)
    turned = genbio._rotate(queries, (angles.sin(), angles.cos()))
    assert turned.dtype is torch.float32
    assert torch.equal(turned[:, :, :5], queries[:, :, :5].to(torch.bfloat16).float())
    # The pair (k, k + 32) is a complex number that is turned by its angle.
    pairs = torch.complex(queries[:, :, 5:, :32], queries[:, :, 5:, 32:])
    exact = pairs * torch.exp(1j * angles[:, :32].float())
    error = (turned[:, :, 5:] - torch.cat([exact.real, exact.imag], dim=-1)).abs().max()
    assert 1e-4 < error < 0.05


class _ExactPositions(nn.Module):
    """The same angles in float32: what timm computes."""

    def forward(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        row, column = torch.meshgrid(
            *(2 * (torch.arange(count) + 0.5) / count - 1 for count in (rows, columns)), indexing="ij"
        )
        periods = 100 ** (torch.arange(16) / 16)
        halves = [2 * torch.pi * at.reshape(-1, 1) / periods for at in (row, column)]
        angles = torch.cat(halves, dim=1).tile(2)
        return angles.sin(), angles.cos()


def _timm(state: Mapping[str, Tensor], depth: int) -> nn.Module:
    """timm's DINOv3 for one colour channel, with exact rotary positions."""
    network = Eva(
        img_size=224,
        patch_size=16,
        in_chans=1,
        num_classes=0,
        global_pool="token",
        embed_dim=1536,
        depth=depth,
        num_heads=24,
        qkv_bias=False,
        mlp_ratio=8 / 3,
        swiglu_mlp=True,
        swiglu_align_to=64,
        init_values=1e-5,
        num_reg_tokens=4,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=100,
        rope_rotate_half=True,
        use_fc_norm=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    swaps = (
        (r"^storage_tokens$", "reg_token"),
        (r"\.ls(\d)\.gamma$", r".gamma_\1"),
        (r"\.w1\.", ".fc1_g."),
        (r"\.w2\.", ".fc1_x."),
        (r"\.w3\.", ".fc2."),
    )
    renamed = {}
    for name, tensor in state.items():
        if name != "rope_embed.periods":
            for pattern, replacement in swaps:
                name = re.sub(pattern, replacement, name)  # noqa: PLW2901
            renamed[name] = tensor
    network.load_state_dict(renamed)
    return network.eval()


def test_network_against_timm(draw: Callable[[nn.Module], dict[str, Tensor]], images: Tensor) -> None:
    network = genbio.build_network(depth=1)
    state = draw(network) | {"rope_embed.periods": PERIODS}
    network.load_state_dict(state, assign=True)
    batch = images[:1, :, :224, :224]
    reference = _timm(state, depth=1)
    with torch.inference_mode():
        expected = torch.cat([reference(batch[:, k : k + 1]) for k in range(3)], dim=1)
        rounded = network.eval()(batch)
        network.rope_embed = _ExactPositions()  # type: ignore[assignment]
        exact = network(batch)
    assert rounded.shape == (1, 4608)
    assert (exact - expected).abs().max() < 2e-5 * expected.abs().max()
    difference = (rounded - expected).abs().max()
    assert 1e-4 < difference < 0.1
    assert nn.functional.cosine_similarity(rounded, expected).min() > 0.999


@pytest.mark.skipif(
    not os.environ.get("TRIDENT_TEST_LARGE"), reason="gigabytes of made-up weights; set TRIDENT_TEST_LARGE=1"
)
def test_whole(tmp_path: Path, seeded_state: Callable[..., dict[str, Tensor]], patch512: Image.Image) -> None:
    state = seeded_state("genbio-pathfm") | {"rope_embed.periods": PERIODS}
    torch.save(state, tmp_path / "model.pth")
    encoder = encoder_factory("genbio-pathfm", weights_path=tmp_path)
    batch = encoder.eval_transforms(patch512).unsqueeze(0)
    assert batch.shape == (1, 3, 224, 224)
    with torch.inference_mode():
        rounded = encoder(batch)
        encoder.model.rope_embed = _ExactPositions()
        exact = encoder(batch)
        del encoder
        reference = _timm(state, depth=40)
        expected = torch.cat([reference(batch[:, k : k + 1]) for k in range(3)], dim=1)
    cosine = nn.functional.cosine_similarity(rounded, expected).item()
    print(f"genbio-pathfm: exact RoPE max abs {(exact - expected).abs().max():.1e}; ", end="")
    print(f"rounded RoPE max abs {(rounded - expected).abs().max():.1e}, cosine {cosine:.6f}")
    assert (exact - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert cosine > 0.9999
