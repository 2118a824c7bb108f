"""TITAN's slide encoder: a transformer over the grid of patches, with 2-D ALiBi. Imports torch: import it lazily.

Source: Ding et al., "Multimodal Whole Slide Foundation Model for Pathology" (arXiv 2411.19666), and the names and
shapes of the published weights. The embedding is that of the contrastive pooler before its projection.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trident.encoders.checkpoint import load_into
from trident.encoders.slide.blockwise import by_rows
from trident.encoders.slide.network_encoder import NetworkSlideEncoder, SlidePatches
from trident.encoders.slide.partial_weights import load_part
from trident.encoders.slide.spec import SlideEncoderSpec

WIDTH = 768
DEPTH = 6
HEADS = 12
POOLER_HEADS = 8
BLOCK_EPS = 1e-6
POOLER_EPS = 1e-5
MAX_QUERIES = 1024
MAX_BIASES = 1 << 25
"""Attention biases that exist at once, over heads, queries and keys: 128 MB of float32."""
MAX_BIASES_GPU = 1 << 29
"""The same on a GPU, 1 GB of float16: it is busy only with many queries at once."""

_PART = "vision_encoder."
# The pooler of TITAN's captioning branch, and the projection to the space that it shares with text.
_UNUSED = ("attn_pool.", "proj")


def occupied_cells(patches: SlidePatches) -> tuple[Tensor, Tensor]:
    """The slide as a sparse grid of cells of one patch each, counted from the first patch in x and in y.

    Patches of one cell are added. A cell whose sum is zero throughout is background, and is left out.

    Returns:
        Sums (n, F), float32, and cells (n, 2), int64, n <= N.
    """
    relative = patches.coords - patches.coords.amin(dim=0)
    cells = (relative.double() / patches.patch_size_level0).floor().long()
    cells, cell_of_patch = torch.unique(cells, dim=0, return_inverse=True)
    sums = patches.features.new_zeros((len(cells), patches.features.shape[1]))
    sums = sums.index_add(0, cell_of_patch, patches.features)
    kept = (sums != 0).any(dim=1)
    return sums[kept], cells[kept]


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Penalty of each head per unit of distance: powers of two in a geometric series.

    Where `heads` is no power of two, the series of the next lower power comes first, and then every other member of the
    series of the next higher one.
    """
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (head + 1) / lower) for head in range(lower)]
    between = [2.0 ** (-4 * (2 * head + 1) / lower) for head in range(heads - lower)]
    return (*slopes, *between)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor, cells: Tensor) -> Tensor:
        """(1 + n, width) -> the same; `cells` (n, 2), float32, are those of all tokens but the class token."""
        length = len(tokens)
        qkv = self.qkv(tokens).reshape(1, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = (one.contiguous() for one in qkv.unbind(0))  # (1, heads, length, width / heads) each
        del qkv  # every block reads all keys and values: one head's lie together now
        slopes = torch.tensor(alibi_slopes(HEADS), device=tokens.device).reshape(HEADS, 1, 1)
        most = MAX_BIASES if tokens.device.type == "cpu" else MAX_BIASES_GPU
        at_once = max(1, min(MAX_QUERIES, length, most // (HEADS * length)))
        # One block's memory serves all of them, unless a backward pass needs each block's own.
        memory = None if torch.is_grad_enabled() else query.new_empty((HEADS, at_once, length))
        # Written in place: small results kept between large ones that are freed would break the heap into pieces.
        attended = torch.empty_like(query)
        for start in range(0, length, at_once):
            distances = _distances(cells, start, min(start + at_once, length))
            out = None if memory is None else memory[:, : len(distances)]
            bias = torch.mul(distances, -slopes, out=out).to(query.dtype).unsqueeze(0)
            block = query[:, :, start : start + at_once]
            attended[:, :, start : start + at_once] = functional.scaled_dot_product_attention(
                block, key, value, attn_mask=bias
            )
        return cast(Tensor, self.proj(attended.squeeze(0).transpose(0, 1).reshape(length, WIDTH)))


def _distances(cells: Tensor, start: int, stop: int) -> Tensor:
    """Euclidean distances in cells of the tokens start..stop-1 to all 1 + n; the class token (token 0) has none."""
    first = max(0, start - 1)
    across = (cells[first : stop - 1, None, 0] - cells[None, :, 0]).square_()
    down = (cells[first : stop - 1, None, 1] - cells[None, :, 1]).square_()
    between_patches = across.add_(down).sqrt_()
    return functional.pad(between_patches, (1, 0, 1 if start == 0 else 0, 0))


class _FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(functional.gelu(self.fc1(tokens))))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=BLOCK_EPS)
        self.attn = _Attention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=BLOCK_EPS)
        self.mlp = _FeedForward()

    def forward(self, tokens: Tensor, cells: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), cells)
        return tokens + by_rows(lambda rows: self.mlp(self.norm2(rows)), tokens)


class _Pooler(nn.Module):
    """One learned query attends to all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, WIDTH))
        self.attn = nn.MultiheadAttention(WIDTH, POOLER_HEADS)
        self.ln_q = nn.LayerNorm(WIDTH, eps=POOLER_EPS)
        self.ln_k = nn.LayerNorm(WIDTH, eps=POOLER_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        keys = self.ln_k(tokens)
        pooled, _ = self.attn(self.ln_q(self.query), keys, keys, need_weights=False)
        return cast(Tensor, pooled[0])


class TitanNetwork(nn.Module):
    """Patches of one slide -> embedding (768,). The order of the patches and the slide's origin play no role."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.patch_embed = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.blocks = nn.ModuleDict({"modules_list": nn.ModuleList(_Block() for _ in range(DEPTH))})
        self.norm = nn.LayerNorm(WIDTH, eps=BLOCK_EPS)
        self.attn_pool_contrastive = _Pooler()

    def forward(self, patches: SlidePatches) -> Tensor:
        """The embedding; zero where every patch is background."""
        sums, cells = occupied_cells(patches)
        if not len(sums):
            return sums.new_zeros(WIDTH)
        tokens = torch.cat([self.cls_token[0], self.patch_embed(sums)])
        positions = cells.to(torch.float32)
        for block in cast(nn.ModuleList, self.blocks["modules_list"]):
            tokens = block(tokens, positions)
        return cast(Tensor, self.attn_pool_contrastive(self.norm(tokens)))


def build(spec: SlideEncoderSpec, weights_path: Path) -> NetworkSlideEncoder:
    """TITAN with its published weights; the text tower in the file is not read.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    with torch.device("meta"):
        network = TitanNetwork()
    load_into(network, load_part(weights_path, _PART), weights_path, unused=_UNUSED)
    return NetworkSlideEncoder(spec, network, takes_coords=True)
