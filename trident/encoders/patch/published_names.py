"""From the names under which weights are published to those of timm's vision transformers.

Pure functions from tensors by name to tensors by name: what they do not know passes unchanged, so that the strict fit
that follows can name it. Imports torch: import this module lazily.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_Renames = Sequence[tuple[re.Pattern[str], str]]


def _renames(*pairs: tuple[str, str]) -> _Renames:
    return tuple((re.compile(f"^{pattern}"), replacement) for pattern, replacement in pairs)


_TRANSFORMERS = _renames(
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.register_tokens$", "reg_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
    (r"encoder\.layer\.(\d+)\.(?:norm1|layernorm_before)\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.(?:norm2|layernorm_after)\.", r"blocks.\1.norm2."),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(?:mlp\.fc1|mlp\.weights_in|intermediate\.dense)\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.(?:mlp\.fc2|mlp\.weights_out|output\.dense)\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
)

_DINOV2 = _renames(
    (r"register_tokens$", "reg_token"),
    (r"blocks\.(\d+)\.mlp\.w12\.", r"blocks.\1.mlp.fc1."),
    (r"blocks\.(\d+)\.mlp\.w3\.", r"blocks.\1.mlp.fc2."),
)

_KEEP = _renames((r"(visual\.blocks\.\d+\.ls[12])\.weight$", r"\1.gamma"))

_QUERY = re.compile(r"^(blocks\.\d+\.attn\.)query(\.weight|\.bias)$")


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of transformers' `ViTModel` and `Dinov2Model` -> timm's; query, key and value become one tensor."""
    return _joined_attention(_renamed(state, _TRANSFORMERS))


def from_transformers_dinov2_with_registers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of transformers' `Dinov2WithRegistersModel` -> timm's."""
    return _class_position_moved(from_transformers(state))


def from_dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of DINOv2's own code, with registers and gated feed-forward -> timm's."""
    return _class_position_moved(_renamed(state, _DINOV2))


def from_keep(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """KEEP's names, in either spelling of its layer scales -> those with `gamma`."""
    return _renamed(state, _KEEP)


def resample_positions(table: Tensor, grid: int, *, antialias: bool) -> Tensor:
    """A table of positions with the class token's first, (1, 1 + N * N, D) -> (1, 1 + grid * grid, D).

    Bicubic, as the code that published the weights does at each forward; a table of the right size, or one that is no
    square, comes back as it is.
    """
    side = round((table.shape[1] - 1) ** 0.5) if table.ndim == 3 else 0
    if side in (0, grid) or side * side != table.shape[1] - 1:
        return table
    return torch.cat([table[:, :1], _resized(table[:, 1:], side, grid, antialias=antialias)], dim=1)


def resample_grid(table: Tensor, grid: int, *, antialias: bool) -> Tensor:
    """Like `resample_positions`, for a table without a class token's position: (1, N * N, D)."""
    side = round(table.shape[1] ** 0.5) if table.ndim == 3 else 0
    if side in (0, grid) or side * side != table.shape[1]:
        return table
    return _resized(table, side, grid, antialias=antialias)


def _resized(patches: Tensor, side: int, grid: int, *, antialias: bool) -> Tensor:
    as_image = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(as_image, size=(grid, grid), mode="bicubic", align_corners=False, antialias=antialias)
    return resized.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)


def _renamed(state: Mapping[str, Tensor], renames: _Renames) -> dict[str, Tensor]:
    return {_new_name(name, renames): tensor for name, tensor in state.items()}


def _new_name(name: str, renames: _Renames) -> str:
    for pattern, replacement in renames:
        new, hits = pattern.subn(replacement, name)
        if hits:
            return new
    return name


def _joined_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    joined = dict(state)
    for name in state:
        found = _QUERY.match(name)
        if found is None:
            continue
        start, end = found.groups()
        parts = [f"{start}{part}{end}" for part in ("query", "key", "value")]
        # Where one is missing the others stay as they are, and the fit says so.
        if all(part in joined for part in parts):
            joined[f"{start}qkv{end}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def _class_position_moved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm adds positions to the patches only, where there are registers: the class token takes its own with it."""
    moved = dict(state)
    if "cls_token" in moved and "pos_embed" in moved:
        positions = moved["pos_embed"]
        moved["cls_token"] = moved["cls_token"] + positions[:, :1]
        moved["pos_embed"] = positions[:, 1:].contiguous()
    return moved
