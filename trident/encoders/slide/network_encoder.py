"""A slide encoder around a network of one slide's patches. Imports torch: import this module lazily.

The network sees plain, checked tensors of one slide; the axis of slides, slides without patches and wrong input are
dealt with here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import SettingsError, StoreError


@dataclass(frozen=True)
class SlidePatches:
    """The patches of one slide, N of them, on the device that computes."""

    features: Tensor
    """(N, F), float32."""
    coords: Tensor
    """(N, 2), int64: x and y of each patch's corner in level-0 pixels. (0, 2) where the network takes none."""
    patch_size_level0: float
    """Side of a patch in level-0 pixels; NaN where the network takes no coordinates."""


class NetworkSlideEncoder(SlideEncoder):
    """A slide encoder whose embedding a network computes, one slide at a time.

    A slide without patches has the embedding zero: no patch, no signal.
    """

    def __init__(self, spec: SlideEncoderSpec, model: nn.Module, *, takes_coords: bool) -> None:
        """Args:
        spec: what is declared about the encoder.
        model: `SlidePatches` of one patch or more -> (D,). Its tensors have the published names.
        takes_coords: whether it reads coordinates and patch size.
        """
        super().__init__(spec.name, getattr(torch, spec.precision), spec.embedding_dim, input_dim=spec.input_dim)
        self.model = model
        self.takes_coords = takes_coords

    def forward(self, batch: Mapping[str, Any], device: torch.device | str = "cpu") -> Tensor:
        """The embedding: (1, D) of features (1, N, F), (D,) of (N, F).

        Raises:
            SettingsError: several slides at once, features of another length, no coordinates or no patch size.
            StoreError: features and coordinates do not belong together.
        """
        given = self.features_of(batch, device)
        if given.ndim > 2 and given.shape[:-2] != (1,):
            raise SettingsError(
                f"slide encoder {self.enc_name} takes one slide at a time and was given features of shape "
                f"{tuple(given.shape)}; call it once for each slide"
            )
        features = given.reshape(given.shape[-2:])
        if len(features):
            embedding: Tensor = self.model(self._patches(batch, features))
        else:
            embedding = features.new_zeros(self.embedding_dim or features.shape[-1])
        return embedding.reshape(*given.shape[:-2], -1)

    def _patches(self, batch: Mapping[str, Any], features: Tensor) -> SlidePatches:
        if not self.takes_coords:
            return SlidePatches(features, features.new_zeros((0, 2), dtype=torch.int64), math.nan)
        if batch.get("coords") is None:
            raise SettingsError(
                f"slide encoder {self.enc_name} needs the patches' places; give batch['coords'], (N, 2) level-0 pixels"
            )
        coords = torch.as_tensor(batch["coords"])
        if coords.shape not in ((len(features), 2), (1, len(features), 2)):
            raise StoreError(
                f"features of {len(features)} patches and coordinates of shape {tuple(coords.shape)} do not belong "
                "together; make the patch features again"
            )
        coords = coords.reshape(-1, 2).to(device=features.device, dtype=torch.int64)
        return SlidePatches(features, coords, self._patch_size(batch))

    def _patch_size(self, batch: Mapping[str, Any]) -> float:
        given = (batch.get("attributes") or {}).get("patch_size_level0")
        size = math.nan if given is None else float(given)
        if not (math.isfinite(size) and size > 0):
            raise SettingsError(
                f"slide encoder {self.enc_name} needs the side of a patch in level-0 pixels and was given {given!r}; "
                "give batch['attributes']['patch_size_level0'], as the file of coordinates has it"
            )
        return size
