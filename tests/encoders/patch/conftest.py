"""Made-up weights under published names, and a vision transformer written out, to compare networks with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


@pytest.fixture(scope="session")
def seeded_state(shared_reference: Path, shared_tools: Path) -> Callable[..., State]:
    """(name, depth=None) -> seeded tensors under the published names, of the first `depth` blocks only."""
    found = spec_from_file_location("seeded_weights", shared_tools / "seeded_weights.py")
    assert found is not None and found.loader is not None
    seeded = module_from_spec(found)
    found.loader.exec_module(seeded)

    def make(name: str, depth: int | None = None) -> State:
        manifest = json.loads((shared_reference / "manifests" / "patch" / f"{name}.json").read_text())
        if depth is not None:
            manifest["tensors"] = {
                tensor: facts for tensor, facts in manifest["tensors"].items() if _block(tensor) < depth
            }
        state: State = seeded.state_dict(manifest)
        return state

    return make


def _block(name: str) -> int:
    """Number of the block that a tensor belongs to; -1 outside the blocks."""
    parts = name.split(".")
    for before, number in pairwise(parts):
        if before in ("blocks", "layer") and number.isdigit():
            return int(number)
    return -1


@pytest.fixture(scope="session")
def plain_vit() -> Callable[..., Tensor]:
    """The function `_vision_transformer`."""
    return _vision_transformer


def _vision_transformer(state: Mapping[str, Tensor], images: Tensor, *, heads: int, prefix: str = "") -> Tensor:
    """Normed tokens (B, N, D) of a pre-norm vision transformer, from tensors under timm's or DINOv2's names.

    What the tensors' names and shapes tell (depth, registers, gated feed-forward, layer scale, whether the class token
    has a position) is read from them.
    """

    def get(*names: str) -> Tensor:
        return next(state[prefix + name] for name in names if prefix + name in state)

    def norm(tokens: Tensor, name: str) -> Tensor:
        centred = tokens - tokens.mean(dim=-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-6)
        return scaled * get(f"{name}.weight") + get(f"{name}.bias")

    def linear(tokens: Tensor, *names: str) -> Tensor:
        return tokens @ get(*(f"{name}.weight" for name in names)).T + get(*(f"{name}.bias" for name in names))

    kernel = get("patch_embed.proj.weight")
    side = kernel.shape[-1]
    cut = F.unfold(images, side, stride=side).transpose(1, 2)
    tokens = cut @ kernel.flatten(1).T + get("patch_embed.proj.bias")
    batch, n_patches, width = tokens.shape

    positions, class_token = get("pos_embed"), get("cls_token")
    registers = [
        state[prefix + name].expand(batch, -1, -1)
        for name in ("reg_token", "register_tokens")
        if prefix + name in state
    ]
    n_registers = sum(one.shape[1] for one in registers)
    if positions.shape[1] == n_patches + 1:
        class_token, positions = class_token + positions[:, :1], positions[:, 1:]
    elif positions.shape[1] == n_patches + 1 + n_registers:  # every token has its own
        class_token = class_token + positions[:, :1]
        registers = [one + positions[:, 1 : 1 + n_registers] for one in registers]
        positions = positions[:, 1 + n_registers :]
    tokens = torch.cat([class_token.expand(batch, -1, -1), *registers, tokens + positions], dim=1)

    depth = 0
    while prefix + f"blocks.{depth}.norm1.weight" in state:
        block = f"blocks.{depth}"
        mixed = linear(norm(tokens, f"{block}.norm1"), f"{block}.attn.qkv")
        query, key, value = mixed.reshape(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query @ key.transpose(-1, -2) * (width // heads) ** -0.5, dim=-1)
        attended = (weights @ value).transpose(1, 2).reshape(batch, -1, width)
        scales = [state.get(f"{prefix}{block}.ls{k}.gamma", torch.ones(width)) for k in (1, 2)]
        tokens = tokens + scales[0] * linear(attended, f"{block}.attn.proj")
        hidden = linear(norm(tokens, f"{block}.norm2"), f"{block}.mlp.fc1", f"{block}.mlp.w12")
        if get(f"{block}.mlp.fc2.weight", f"{block}.mlp.w3.weight").shape[1] * 2 == hidden.shape[-1]:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = gate * torch.sigmoid(gate) * up
        else:
            hidden = hidden * 0.5 * (1 + torch.erf(hidden * 0.5**0.5))
        tokens = tokens + scales[1] * linear(hidden, f"{block}.mlp.fc2", f"{block}.mlp.w3")
        depth += 1
    assert depth > 0
    return norm(tokens, "norm")
