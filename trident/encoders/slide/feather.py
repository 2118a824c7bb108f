"""FEATHER, for conch_v15 and for uni_v2: gated attention. Imports torch: import this module lazily."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.slide.attention import GatedAttention, weighted_mean
from trident.encoders.slide.base import PoolingEncoder
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import WeightsError

_PREFIX = "model."
_CLASSIFIER = f"{_PREFIX}classifier."
"""The head of the task that it was trained on, which some published files hold."""


class FeatherNetwork(nn.Module):
    """(..., N, `input_dim`) -> (..., 512)."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(nn.Linear(input_dim, 512), nn.ReLU(), nn.Dropout(0.25))
        self.global_attn = GatedAttention(512, 384, dropout=0.25)

    def forward(self, features: Tensor) -> Tensor:
        """Attention-weighted mean of the hidden features."""
        hidden = self.patch_embed(features)
        return weighted_mean(self.global_attn(hidden), hidden)


def build(spec: SlideEncoderSpec, weights_path: Path) -> PoolingEncoder:
    """FEATHER with its weights, for the length of features that `spec` declares.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    assert spec.input_dim is not None
    with torch.device("meta"):
        network = FeatherNetwork(spec.input_dim)
    state = load_checkpoint(weights_path)
    strange = [name for name in state if not name.startswith(_PREFIX)]
    if strange:
        raise WeightsError(
            f"{weights_path}: these are not the weights of {spec.name}: its tensors begin with {_PREFIX!r}, and "
            f"{strange[0]} does not. Check that the file belongs to the encoder"
        )
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if not name.startswith(_CLASSIFIER)}
    return PoolingEncoder(spec, load_into(network, state, weights_path))
