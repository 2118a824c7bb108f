"""CONCH and CONCH v1.5: a ViT whose tokens are pooled by one learned query. Imports torch: import this module lazily.

Lu et al., "A visual-language foundation model for computational pathology" (2024): the vision half of a CoCa.
"""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.patch.models.positions import enlarge_dino, fit_grid
from trident.encoders.patch.spec import PatchEncoderSpec

_POOLER_EPS = 1e-5
_V1_GRID = 28
"""Side of the first version's position grid, in tokens: 448 px."""
_V15_GRID = 14
"""Side of version 1.5's position grid, in tokens: 224 px, although the input has 448."""


class _QueryPooler(nn.Module):
    """Tokens (B, N, context) -> (B, width): what one learned query attends to."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, width))
        self.ln_q = nn.LayerNorm(width, eps=_POOLER_EPS)
        self.ln_k = nn.LayerNorm(context, eps=_POOLER_EPS)
        self.attn = nn.MultiheadAttention(width, heads, kdim=context, vdim=context, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        context = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        pooled: Tensor = self.attn(query, context, context, need_weights=False)[0]
        return pooled[:, 0]


class _PlainQueryPooler(nn.Module):
    """The same with three linear layers that have no bias, keys and values made by one of them."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, width))
        self.ln_q = nn.LayerNorm(width, eps=_POOLER_EPS)
        self.ln_k = nn.LayerNorm(context, eps=_POOLER_EPS)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self._split(self.to_q(self.ln_q(self.query)).expand(len(tokens), 1, -1))
        key, value = (self._split(part) for part in self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1))
        pooled = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.to_out(pooled.transpose(1, 2).flatten(2))
        return out[:, 0]

    def _split(self, part: Tensor) -> Tensor:
        """(B, N, heads * d) -> (B, heads, N, d)."""
        return part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2)


class _ConchVision(nn.Module):
    """(B, 3, H, W) -> (B, 512); the modules' names are the published ones."""

    def __init__(self, *, with_proj: bool, depth: int) -> None:
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=16 * _V1_GRID,
            patch_size=16,
            embed_dim=768,
            depth=depth,
            num_heads=12,
            num_classes=0,
            dynamic_img_size=True,
        )
        self.attn_pool_contrast = _QueryPooler(512, 768, heads=8)
        self.ln_contrast = nn.LayerNorm(512, eps=_POOLER_EPS)
        if with_proj:
            self.proj_contrast = nn.Parameter(torch.empty(512, 512))
        self.with_proj = with_proj

    def forward(self, batch: Tensor) -> Tensor:
        pooled: Tensor = self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(batch)))
        return pooled @ self.proj_contrast if self.with_proj else pooled


class Conch(nn.Module):
    """CONCH's image tower: (B, 3, 448, 448) -> (B, 512), into the space of its captions with `with_proj`."""

    def __init__(self, *, with_proj: bool, normalize: bool, depth: int) -> None:
        super().__init__()
        self.visual = _ConchVision(with_proj=with_proj, depth=depth)
        self.normalize = normalize

    def forward(self, batch: Tensor) -> Tensor:
        """Features of a normalised batch; of length 1 with `normalize`."""
        features: Tensor = self.visual(batch)
        return F.normalize(features, dim=-1) if self.normalize else features


class ConchV15(nn.Module):
    """CONCH v1.5's image tower: (B, 3, H, W), sides multiples of 16 -> (B, 768)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=16 * _V15_GRID,
            patch_size=16,
            embed_dim=1024,
            depth=depth,
            num_heads=16,
            init_values=1.0,
            num_classes=0,
            dynamic_img_size=True,
        )
        self.attn_pool_contrast = _PlainQueryPooler(768, 1024, heads=8)
        self.ln_contrast = nn.LayerNorm(768, eps=_POOLER_EPS)

    def forward(self, batch: Tensor) -> Tensor:
        """Features of a normalised batch."""
        pooled: Tensor = self.ln_contrast(self.attn_pool_contrast(self._tokens(batch)))
        return pooled

    def _tokens(self, batch: Tensor) -> Tensor:
        # Not timm's forward_features: it would resample the positions in another way.
        patches = self.trunk.patch_embed(batch)
        height, width = patches.shape[1:3]
        first = self.trunk.get_parameter("cls_token").expand(len(batch), -1, -1)
        positions = enlarge_dino(self.trunk.get_parameter("pos_embed"), height, width)
        tokens: Tensor = self.trunk.blocks(torch.cat([first, patches.flatten(1, 2)], dim=1) + positions)
        normalised: Tensor = self.trunk.norm(tokens)
        return normalised


def build_v1_network(*, with_proj: bool = False, normalize: bool = False, depth: int = 12) -> Conch:
    """CONCH, or one with fewer blocks, on the meta device."""
    with torch.device("meta"):
        return Conch(with_proj=with_proj, normalize=normalize, depth=depth)


def build_v15_network(*, depth: int = 24) -> ConchV15:
    """CONCH v1.5, or one with fewer blocks, on the meta device."""
    with torch.device("meta"):
        return ConchV15(depth)


def build_v1(spec: PatchEncoderSpec, weights_path: Path, *, with_proj: bool, normalize: bool) -> nn.Module:
    """CONCH with its weights; the text tower and the captioning half of the file are left out.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    state = _fit_positions(load_checkpoint(weights_path), "visual.trunk.pos_embed", _V1_GRID, weights_path)
    unused = spec.unused_weights if with_proj else (*spec.unused_weights, "visual.proj_contrast")
    network = build_v1_network(with_proj=with_proj, normalize=normalize)
    return load_into(network, state, weights_path, unused=unused).eval()


def build_v15(spec: PatchEncoderSpec, weights_path: Path) -> nn.Module:
    """CONCH v1.5 with its weights.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    state = _fit_positions(load_checkpoint(weights_path), "trunk.pos_embed", _V15_GRID, weights_path)
    return load_into(build_v15_network(), state, weights_path, unused=spec.unused_weights).eval()


def _fit_positions(state: dict[str, Tensor], name: str, side: int, path: Path) -> dict[str, Tensor]:
    # A file without the table is reported by the strict load.
    return {**state, name: fit_grid(state[name], side, path)} if name in state else state
