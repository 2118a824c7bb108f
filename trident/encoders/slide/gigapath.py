"""Prov-GigaPath's slide encoder: a LongNet over the patches. Imports torch: import this module lazily.

Source: Xu et al., "A whole-slide foundation model for digital pathology from real-world data" (Nature 630, 2024), and
the names and shapes of the published weights. The embedding is the normalised mean over the patches after the 11th of
the 12 blocks; the 12th is not needed, and not loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.slide.blockwise import by_rows
from trident.encoders.slide.dilated_attention import Branch, dilated_attention
from trident.encoders.slide.network_encoder import NetworkSlideEncoder, SlidePatches
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import SettingsError

PATCH_WIDTH = 1536
WIDTH = 768
HEADS = 16
BLOCKS = 11
BLOCK_EPS = 1e-5
NORM_EPS = 1e-6
CELLS = 1000
"""Cells in x and in y for which the network knows positions."""
BRANCHES = (Branch(1024, 1), Branch(5792, 2), Branch(32768, 4), Branch(185363, 8), Branch(1048576, 16))

# The last block and its norm; the table of positions, which is computed here, in files that hold it.
_UNUSED = (f"encoder.layers.{BLOCKS}.", "encoder.layer_norm.", "pos_embed")


def grid_cells(patches: SlidePatches) -> Tensor:
    """Cell (x, y) of each patch, (N, 2), int64, in whole patches from the slide's corner.

    Raises:
        SettingsError: a patch lies beyond the cells that the network knows.
    """
    cells = (patches.coords.double() / patches.patch_size_level0).floor().long()
    if int(cells.min()) < 0 or int(cells.max()) >= CELLS:
        raise SettingsError(
            f"gigapath knows {CELLS} x {CELLS} positions of one patch ({patches.patch_size_level0:g} level-0 pixels) "
            f"each, and these patches lie from ({', '.join(map(str, cells.amin(0).tolist()))}) to "
            f"({', '.join(map(str, cells.amax(0).tolist()))}); check the coordinates and patch_size_level0, or choose "
            "another slide encoder for a slide this large"
        )
    return cells


def position_embeddings(cells: Tensor) -> Tensor:
    """Sines and cosines of y, then of x: cells (N, 2) as (x, y) -> (N, 768), float32."""
    quarter = WIDTH // 4
    exponents = torch.arange(quarter, dtype=torch.float64, device=cells.device) / quarter
    angles = torch.arange(CELLS, dtype=torch.float64, device=cells.device)[:, None] * 10000.0**-exponents
    of_one_axis = torch.cat([angles.sin(), angles.cos()], dim=1).to(torch.float32)
    return torch.cat([of_one_axis[cells[:, 1]], of_one_axis[cells[:, 0]]], dim=1)


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k_proj = nn.Linear(WIDTH, WIDTH)
        self.v_proj = nn.Linear(WIDTH, WIDTH)
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)
        self.inner_attn_ln = nn.LayerNorm(WIDTH, eps=BLOCK_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        by_head = (len(tokens), HEADS, WIDTH // HEADS)
        query, key, value = (
            projection(tokens).reshape(by_head).float() for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        # The branches are blended by exponentials: in half precision that loses most of its digits.
        with torch.autocast(tokens.device.type, enabled=False):
            attended = dilated_attention(query, key, value, BRANCHES).reshape(len(tokens), WIDTH)
        return cast(Tensor, self.out_proj(self.inner_attn_ln(attended)))


class _FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)
        self.ffn_layernorm = nn.LayerNorm(4 * WIDTH, eps=BLOCK_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(self.ffn_layernorm(functional.gelu(self.fc1(tokens)))))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = _SelfAttention()
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH, eps=BLOCK_EPS)
        self.ffn = _FeedForward()
        self.final_layer_norm = nn.LayerNorm(WIDTH, eps=BLOCK_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.self_attn_layer_norm(tokens))
        return tokens + by_rows(lambda rows: self.ffn(self.final_layer_norm(rows)), tokens)


class GigaPathNetwork(nn.Module):
    """Patches of one slide -> embedding (768,). Their order matters a little: which patches share a segment."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(PATCH_WIDTH, WIDTH)})
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Block() for _ in range(BLOCKS))})
        self.norm = nn.LayerNorm(WIDTH, eps=NORM_EPS)

    def forward(self, patches: SlidePatches) -> Tensor:
        """The embedding.

        Raises:
            SettingsError: a patch lies beyond the positions that the network knows.
        """
        positions = position_embeddings(grid_cells(patches))
        tokens = torch.cat([self.cls_token[0], self.patch_embed["proj"](patches.features) + positions])
        del positions
        for block in cast(nn.ModuleList, self.encoder["layers"]):
            tokens = block(tokens)
        return cast(Tensor, self.norm(tokens[1:].mean(dim=0)))


def build(spec: SlideEncoderSpec, weights_path: Path) -> NetworkSlideEncoder:
    """Prov-GigaPath's slide encoder with its published weights.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    with torch.device("meta"):
        network = GigaPathNetwork()
    load_into(network, load_checkpoint(weights_path), weights_path, unused=_UNUSED)
    return NetworkSlideEncoder(spec, network, takes_coords=True)
