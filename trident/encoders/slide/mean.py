"""The mean over all patches as a slide's embedding. Imports torch: import this module lazily."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.spec import SlideEncoderSpec


class MeanSlideEncoder(SlideEncoder):
    """Mean of the patch features. A slide without patches has the embedding zero, not NaN: no patch, no signal."""

    def __init__(self, enc_name: str, embedding_dim: int | None = None) -> None:
        super().__init__(enc_name, torch.float32, embedding_dim)

    def forward(self, batch: Mapping[str, Any], device: torch.device | str = "cpu") -> Tensor:
        """Mean over the patches: (1, N, D) -> (1, D), (N, D) -> (D,); only `features` of `batch` is used."""
        features = self.features_of(batch, device)
        return features.sum(dim=-2) / max(1, features.shape[-2])


def build(spec: SlideEncoderSpec, weights_path: Path | None) -> MeanSlideEncoder:
    """The mean that `spec` declares; it has no weights."""
    assert weights_path is None
    return MeanSlideEncoder(spec.name, spec.embedding_dim)
