"""GenBio-PathFM: a DINOv3-like ViT that looks at one colour channel at a time. Imports torch: import this lazily."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.patch.spec import PatchEncoderSpec

_WIDTH = 1536
_HEADS = 24
_HEAD_DIM = _WIDTH // _HEADS
_HIDDEN = 4096
_PATCH_PX = 16
_STORAGE_TOKENS = 4
_EPS = 1e-6

Rotation = tuple[Tensor, Tensor]
"""Sine and cosine of every patch token's angles, (patches, head dimension), bfloat16."""


class _RotaryPositions(nn.Module):
    """Angles from a token's row and column.

    Everything is computed in bfloat16, step by step: the network has learned with these rounded angles, and exact ones
    give features that differ by a percent.
    """

    periods: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("periods", torch.empty(_HEAD_DIM // 4, dtype=torch.bfloat16))

    def forward(self, rows: int, columns: int) -> Rotation:
        # The buffer is a parameter of the file, which may have been loaded as float32: its values are bfloat16's.
        periods = self.periods.to(torch.bfloat16)
        centres = [
            torch.arange(0.5, count, device=periods.device, dtype=torch.bfloat16) / count for count in (rows, columns)
        ]
        coordinates = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 1)
        coordinates = 2.0 * coordinates - 1.0
        angles = 2 * math.pi * coordinates[:, :, None] / periods
        angles = angles.flatten(1, 2).tile(2)
        return angles.sin(), angles.cos()


def _rotate(tensor: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the patch tokens of a query or key (B, heads, N, d); the tokens before them are rounded only."""
    sine, cosine = rotation
    rounded = tensor.to(sine.dtype)
    first = rounded.shape[-2] - sine.shape[-2]
    prefix, patches = rounded[..., :first, :], rounded[..., first:, :]
    left, right = patches.chunk(2, dim=-1)
    turned = patches * cosine + torch.cat([-right, left], dim=-1) * sine
    return torch.cat([prefix, turned], dim=-2).to(tensor.dtype)


class _Attention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        query, key, value = self.qkv(tokens).reshape(*tokens.shape[:2], 3, _HEADS, _HEAD_DIM).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(_rotate(query, rotation), _rotate(key, rotation), value)
        out: Tensor = self.proj(heads.transpose(1, 2).flatten(2))
        return out


class _GatedFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Linear(_WIDTH, _HIDDEN)
        self.w2 = nn.Linear(_WIDTH, _HIDDEN)
        self.w3 = nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.w3(F.silu(self.w1(tokens)) * self.w2(tokens))
        return out


class _LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(_WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class _Block(nn.Module):
    """A pre-norm transformer block with layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH, eps=_EPS)
        self.attn = _Attention()
        self.ls1 = _LayerScale()
        self.norm2 = nn.LayerNorm(_WIDTH, eps=_EPS)
        self.mlp = _GatedFeedForward()
        self.ls2 = _LayerScale()

    def forward(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rotation))
        out: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return out


class _PatchEmbedding(nn.Module):
    """(B, 1, H, W) -> (B, width, H / 16, W / 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, _WIDTH, kernel_size=_PATCH_PX, stride=_PATCH_PX)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.proj(batch)
        return out


class GenBioPathFM(nn.Module):
    """(B, 3, H, W), sides multiples of 16 -> (B, 4608): the class tokens of red, green and blue, joined."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, _WIDTH))
        self.storage_tokens = nn.Parameter(torch.empty(1, _STORAGE_TOKENS, _WIDTH))
        self.patch_embed = _PatchEmbedding()
        self.rope_embed = _RotaryPositions()
        self.blocks = nn.ModuleList(_Block() for _ in range(depth))
        self.norm = nn.LayerNorm(_WIDTH, eps=_EPS)

    def forward(self, batch: Tensor) -> Tensor:
        """Features of a normalised batch."""
        return self._class_token(batch.flatten(0, 1).unsqueeze(1)).reshape(len(batch), -1)

    def _class_token(self, channels: Tensor) -> Tensor:
        """Single channels (B, 1, H, W) -> (B, width)."""
        patches = self.patch_embed(channels)
        rotation = self.rope_embed(*patches.shape[2:])
        first = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(channels), -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        out: Tensor = self.norm(tokens[:, 0])
        return out


def build_network(*, depth: int = 40) -> GenBioPathFM:
    """GenBio-PathFM, or one with fewer blocks, on the meta device."""
    with torch.device("meta"):
        return GenBioPathFM(depth)


def build(spec: PatchEncoderSpec, weights_path: Path) -> nn.Module:
    """GenBio-PathFM with its weights.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    state = load_checkpoint(weights_path)
    return load_into(build_network(), state, weights_path, unused=spec.unused_weights).eval()
