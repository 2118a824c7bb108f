"""The interface of every slide encoder. Imports torch: import this module lazily."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class SlideEncoder(nn.Module, ABC):
    """All patch features of one slide in, one embedding out."""

    enc_name: str
    """Name, as in file names and attributes."""
    precision: torch.dtype
    """Autocast type on a GPU; a CPU computes in float32."""
    embedding_dim: int | None
    """Length D of the embedding; None where it is that of the features, whatever that is."""
    weights_sha256: str | None
    """Digest of the weights file; None where there is none."""

    def __init__(
        self, enc_name: str, precision: torch.dtype, embedding_dim: int | None, weights_sha256: str | None = None
    ) -> None:
        super().__init__()
        self.enc_name = enc_name
        self.precision = precision
        self.embedding_dim = embedding_dim
        self.weights_sha256 = weights_sha256

    @abstractmethod
    def forward(self, batch: Mapping[str, Any], device: torch.device | str = "cpu") -> Tensor:
        """The embedding of one slide, without the axis of the patches: (1, D) of features (1, N, F), (D,) of (N, F).

        Args:
            batch: `features` float (1, N, F) or (N, F); `coords` int64 (1, N, 2) or (N, 2), level-0 pixels;
                `attributes`, a mapping with `patch_size_level0` (pixels). A slide without patches has N = 0.
            device: where to compute.
        """
