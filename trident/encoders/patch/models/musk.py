"""MUSK's image path: BEiT-3 large. Imports torch: import this module lazily.

Xiang et al., "A vision-language foundation model for precision oncology" (2025); Wang et al., "Image as a Foreign
Language: BEiT Pretraining for All Vision and Vision-Language Tasks" (2022).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.patch.spec import PatchEncoderSpec
from trident.errors import SettingsError

_WIDTH = 1024
_HEADS = 16
_HIDDEN = 4096
_SIDE_PX = 384
_PATCH_PX = 16
_TOKENS = 1 + (_SIDE_PX // _PATCH_PX) ** 2
_POSITION_OFFSET = 2
"""The first rows of the position table are reserved, a habit of the text models that it comes from."""
_EPS = 1e-5
_TEXT_EXPERT = re.compile(r"\.B(\.|$)")


class _Attention(nn.Module):
    """Multi-head self-attention with a LayerNorm between the heads and the output (sub-LN)."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(_WIDTH, _WIDTH)
        self.k_proj = nn.Linear(_WIDTH, _WIDTH)
        self.v_proj = nn.Linear(_WIDTH, _WIDTH)
        self.inner_attn_ln = nn.LayerNorm(_WIDTH, eps=_EPS)
        self.out_proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        split = (*tokens.shape[:2], _HEADS, _WIDTH // _HEADS)
        query, key, value = (
            projection(tokens).reshape(split).transpose(1, 2) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        heads = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(self.inner_attn_ln(heads.transpose(1, 2).flatten(2)))
        return out


class _FeedForward(nn.Module):
    """Two linear layers with a LayerNorm on the hidden activations (sub-LN)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(_WIDTH, _HIDDEN)
        self.ffn_layernorm = nn.LayerNorm(_HIDDEN, eps=_EPS)
        self.fc2 = nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.fc1(tokens)
        # Also under autocast, as it was trained.
        activated = F.gelu(hidden.float()).to(hidden.dtype)
        out: Tensor = self.fc2(self.ffn_layernorm(activated))
        return out


class _Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(_WIDTH, eps=_EPS)
        self.self_attn = _Attention()
        self.final_layer_norm = nn.LayerNorm(_WIDTH, eps=_EPS)
        self.ffn = _FeedForward()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.self_attn_layer_norm(tokens))
        out: Tensor = tokens + self.ffn(self.final_layer_norm(tokens))
        return out


class _Encoder(nn.Module):
    """Tokens (B, 577, 1024) -> the same, normalised."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed_positions = nn.Embedding(_POSITION_OFFSET + _TOKENS, _WIDTH)
        self.layers = nn.Sequential(*(_Layer() for _ in range(depth)))
        self.layer_norm = nn.LayerNorm(_WIDTH, eps=_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = self.embed_positions.weight[_POSITION_OFFSET:]
        out: Tensor = self.layer_norm(self.layers(tokens + positions))
        return out


class _VisionEmbedding(nn.Module):
    """(B, 3, 384, 384) -> (B, 577, 1024), the class token first."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, _WIDTH))
        self.proj = nn.Conv2d(3, _WIDTH, kernel_size=_PATCH_PX, stride=_PATCH_PX)

    def forward(self, batch: Tensor) -> Tensor:
        patches = self.proj(batch).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(batch), -1, -1), patches], dim=1)


class _Beit3(nn.Module):
    """(B, 3, 384, 384) -> all tokens."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.vision_embed = _VisionEmbedding()
        self.encoder = _Encoder(depth)

    def forward(self, batch: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(self.vision_embed(batch))
        return tokens


class Musk(nn.Module):
    """(B, 3, 384, 384) -> (B, 1024); (B, 2048) with `inference_aug`.

    Args:
        with_proj: multiply by the head that leads into the space shared with text.
        inference_aug: join what is seen at two scales: the class token of the image, and the mean of the class tokens
            of the four quarters of the image enlarged twice.
        depth: number of layers.
    """

    def __init__(self, *, with_proj: bool, inference_aug: bool, depth: int) -> None:
        super().__init__()
        self.beit3 = _Beit3(depth)
        if with_proj:
            self.vision_head = nn.Linear(_WIDTH, _WIDTH, bias=False)
        self.with_proj = with_proj
        self.inference_aug = inference_aug

    def forward(self, batch: Tensor) -> Tensor:
        """Features of a normalised batch."""
        features = self._class_token(batch)
        if self.inference_aug:
            features = torch.cat([features, self._class_token_of_quarters(batch)], dim=-1)
        if self.with_proj:
            features = self.vision_head(features)
        return features

    def _class_token(self, batch: Tensor) -> Tensor:
        tokens: Tensor = self.beit3(batch)
        return tokens[:, 0]

    def _class_token_of_quarters(self, batch: Tensor) -> Tensor:
        large = F.interpolate(batch.float(), scale_factor=2, mode="bicubic").to(batch.dtype)
        quarters = [quarter for half in large.chunk(2, dim=2) for quarter in half.chunk(2, dim=3)]
        # One after the other: together they would need four times the memory.
        return torch.stack([self._class_token(quarter) for quarter in quarters]).mean(dim=0)


def build_network(*, with_proj: bool = False, inference_aug: bool = False, depth: int = 24) -> Musk:
    """MUSK's image path, or one with fewer layers, on the meta device.

    Raises:
        SettingsError: both options together, for which no meaning is published.
    """
    if with_proj and inference_aug:
        raise SettingsError(
            "patch encoder musk takes with_proj or inference_aug, not both: the projection is made for one scale"
        )
    with torch.device("meta"):
        return Musk(with_proj=with_proj, inference_aug=inference_aug, depth=depth)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image experts (`.A`) under names without the letter; the text experts (`.B`) are left out."""
    return {re.sub(r"\.A(?=\.)", "", name): tensor for name, tensor in state.items() if not _TEXT_EXPERT.search(name)}


def build(spec: PatchEncoderSpec, weights_path: Path, *, with_proj: bool, inference_aug: bool) -> nn.Module:
    """MUSK's image path with its weights; all that belongs to text is left out.

    Raises:
        SettingsError: both options together.
        WeightsError: the file is damaged or does not fit.
    """
    network = build_network(with_proj=with_proj, inference_aug=inference_aug)
    unused = spec.unused_weights if with_proj else (*spec.unused_weights, "vision_head.")
    return load_into(network, rename(load_checkpoint(weights_path)), weights_path, unused=unused).eval()
