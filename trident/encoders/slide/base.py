"""The interface of every slide encoder. Imports torch: import this module lazily."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import SettingsError


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
    input_dim: int | None
    """Length F of a patch feature vector; None: any."""

    def __init__(
        self,
        enc_name: str,
        precision: torch.dtype,
        embedding_dim: int | None,
        weights_sha256: str | None = None,
        input_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.enc_name = enc_name
        self.precision = precision
        self.embedding_dim = embedding_dim
        self.weights_sha256 = weights_sha256
        self.input_dim = input_dim

    @abstractmethod
    def forward(self, batch: Mapping[str, Any], device: torch.device | str = "cpu") -> Tensor:
        """The embedding of one slide, without the axis of the patches: (1, D) of features (1, N, F), (D,) of (N, F).

        Args:
            batch: `features` float (1, N, F) or (N, F); `coords` int64 (1, N, 2) or (N, 2), level-0 pixels;
                `attributes`, a mapping with `patch_size_level0` (pixels). A slide without patches has N = 0.
            device: where to compute.
        """

    def features_of(self, batch: Mapping[str, Any], device: torch.device | str) -> Tensor:
        """The features of a batch on `device`, float32 (..., N, F).

        Raises:
            SettingsError: no features, or F is not `input_dim`.
        """
        features = batch.get("features")
        if not isinstance(features, Tensor) or features.ndim < 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise SettingsError(
                f"slide encoder {self.enc_name} was given {shape} as batch['features']; "
                "give a tensor (1, N, F) or (N, F)"
            )
        if self.input_dim is not None and features.shape[-1] != self.input_dim:
            raise SettingsError(
                f"slide encoder {self.enc_name} takes {self.input_dim} features a patch and was given "
                f"{features.shape[-1]}; extract them with the patch encoder that it was made for"
            )
        return features.to(device=device, dtype=torch.float32)


class PoolingEncoder(SlideEncoder):
    """A network over a bag of patches, in which the patches' positions play no role.

    Bags of equal length can be stacked: features (..., N, F) give (..., D).
    """

    def __init__(self, spec: SlideEncoderSpec, model: nn.Module) -> None:
        """Args:
        spec: what is declared about the encoder.
        model: (..., N, F) -> (..., D), for N > 0. Its tensors have the published names.
        """
        super().__init__(spec.name, getattr(torch, spec.precision), spec.embedding_dim, input_dim=spec.input_dim)
        self.model = model

    def forward(self, batch: Mapping[str, Any], device: torch.device | str = "cpu") -> Tensor:
        """The embedding (..., D) of features (..., N, F); zeros of a slide without patches. No other input is used."""
        features = self.features_of(batch, device)
        if features.shape[-2] == 0:
            return features.new_zeros(*features.shape[:-2], self.embedding_dim or features.shape[-1])
        embedding: Tensor = self.model(features)
        return embedding
