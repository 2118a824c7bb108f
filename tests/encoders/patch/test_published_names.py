"""trident/encoders/patch/published_names.py: names, joined tensors and resampled positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trident.encoders.patch import published_names


def _distinct(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.register_tokens", "reg_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
        ("encoder.layer.11.attention.output.dense.weight", "blocks.11.attn.proj.weight"),
        ("encoder.layer.0.norm1.weight", "blocks.0.norm1.weight"),
        ("encoder.layer.0.layernorm_before.bias", "blocks.0.norm1.bias"),
        ("encoder.layer.0.layernorm_after.bias", "blocks.0.norm2.bias"),
        ("encoder.layer.3.layer_scale2.lambda1", "blocks.3.ls2.gamma"),
        ("encoder.layer.3.intermediate.dense.weight", "blocks.3.mlp.fc1.weight"),
        ("encoder.layer.3.output.dense.weight", "blocks.3.mlp.fc2.weight"),
        ("encoder.layer.3.mlp.weights_in.bias", "blocks.3.mlp.fc1.bias"),
        ("encoder.layer.3.mlp.weights_out.bias", "blocks.3.mlp.fc2.bias"),
        ("encoder.layer.3.mlp.fc2.weight", "blocks.3.mlp.fc2.weight"),
        ("layernorm.weight", "norm.weight"),
        # Not known, so that it is named as published where it does not fit.
        ("embeddings.mask_token", "embeddings.mask_token"),
        ("pooler.dense.weight", "pooler.dense.weight"),
        ("head.layernorm.weight", "head.layernorm.weight"),
    ],
)
def test_transformers_names(published: str, expected: str) -> None:
    tensor = torch.ones(2)
    renamed = published_names.from_transformers({published: tensor})
    assert list(renamed) == [expected]
    assert renamed[expected] is tensor


def test_query_key_and_value_are_joined_in_that_order() -> None:
    start = "encoder.layer.2.attention.attention."
    state = _distinct({f"{start}{part}.weight": (3, 3) for part in ("value", "query", "key")})
    renamed = published_names.from_transformers(state)
    assert list(renamed) == ["blocks.2.attn.qkv.weight"]
    expected = torch.cat([state[f"{start}{part}.weight"] for part in ("query", "key", "value")])
    assert torch.equal(renamed["blocks.2.attn.qkv.weight"], expected)
    assert len(state) == 3  # what was given is left alone


def test_a_missing_part_of_attention_stays_visible() -> None:
    start = "encoder.layer.2.attention.attention."
    renamed = published_names.from_transformers(_distinct({f"{start}query.bias": (3,), f"{start}value.bias": (3,)}))
    assert sorted(renamed) == ["blocks.2.attn.query.bias", "blocks.2.attn.value.bias"]


@pytest.mark.parametrize(
    ("rename", "names"),
    [
        (
            published_names.from_transformers_dinov2_with_registers,
            ("embeddings.cls_token", "embeddings.position_embeddings", "embeddings.register_tokens"),
        ),
        (published_names.from_dinov2, ("cls_token", "pos_embed", "register_tokens")),
    ],
)
def test_the_class_token_takes_its_position_along(rename: object, names: tuple[str, ...]) -> None:
    cls_token, pos_embed, registers = names
    state = _distinct({cls_token: (1, 1, 4), pos_embed: (1, 10, 4), registers: (1, 2, 4)})
    renamed = rename(state)  # type: ignore[operator]
    assert torch.equal(renamed["cls_token"][0, 0], state[cls_token][0, 0] + state[pos_embed][0, 0])
    assert torch.equal(renamed["pos_embed"], state[pos_embed][:, 1:])
    assert torch.equal(renamed["reg_token"], state[registers])


@pytest.mark.parametrize(
    ("rename", "published", "expected"),
    [
        (published_names.from_dinov2, "blocks.7.mlp.w12.weight", "blocks.7.mlp.fc1.weight"),
        (published_names.from_dinov2, "blocks.7.mlp.w3.bias", "blocks.7.mlp.fc2.bias"),
        (published_names.from_dinov2, "blocks.7.ls1.gamma", "blocks.7.ls1.gamma"),
        (published_names.from_keep, "visual.blocks.7.ls1.weight", "visual.blocks.7.ls1.gamma"),
        (published_names.from_keep, "visual.blocks.7.ls2.gamma", "visual.blocks.7.ls2.gamma"),
        (published_names.from_keep, "visual.blocks.7.norm1.weight", "visual.blocks.7.norm1.weight"),
    ],
)
def test_other_names(rename: object, published: str, expected: str) -> None:
    assert list(rename({published: torch.ones(2)})) == [expected]  # type: ignore[operator]


@pytest.mark.parametrize("antialias", [False, True])
def test_positions_of_another_grid(antialias: bool) -> None:
    table = _distinct({"table": (1, 37, 3)})["table"]
    got = published_names.resample_positions(table, 4, antialias=antialias)
    image = table[:, 1:].reshape(6, 6, 3).permute(2, 0, 1)[None]
    expected = F.interpolate(image, size=(4, 4), mode="bicubic", antialias=antialias)[0]
    assert torch.equal(got[:, :1], table[:, :1])
    for row in range(4):
        for column in range(4):
            assert torch.allclose(got[0, 1 + 4 * row + column], expected[:, row, column])
    without_class = published_names.resample_grid(table[:, 1:], 4, antialias=antialias)
    assert torch.equal(without_class, got[:, 1:])


@pytest.mark.parametrize("n_tokens", [17, 12], ids=["the right size", "no square"])
def test_positions_left_alone(n_tokens: int) -> None:
    table = torch.randn(1, n_tokens, 3)
    assert published_names.resample_positions(table, 4, antialias=True) is table
    assert published_names.resample_grid(table[:, 1:], 4, antialias=True) is not None
