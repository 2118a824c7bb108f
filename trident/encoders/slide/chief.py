"""CHIEF: attention learnt on hidden features, spent on the input features. Imports torch: import this module lazily."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.slide.attention import GatedAttention, weighted_mean
from trident.encoders.slide.base import PoolingEncoder
from trident.encoders.slide.spec import SlideEncoderSpec

_UNUSED = ("organ_embedding", "text_to_vision.", "classifiers.", "instance_classifiers.", "att_head.")
"""Prefixes of published tensors that only the training of CHIEF reads."""


class ChiefNetwork(nn.Module):
    """(..., N, 768) -> (..., 768)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_net = nn.Sequential(
            nn.Linear(768, 512), nn.ReLU(), nn.Dropout(0.25), GatedAttention(512, 256, dropout=0.25)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Attention-weighted mean of the features themselves: a slide of one patch gives that patch back."""
        return weighted_mean(self.attention_net(features), features)


def build(spec: SlideEncoderSpec, weights_path: Path) -> PoolingEncoder:
    """CHIEF with its weights.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    with torch.device("meta"):
        network = ChiefNetwork()
    return PoolingEncoder(spec, load_into(network, load_checkpoint(weights_path), weights_path, unused=_UNUSED))
