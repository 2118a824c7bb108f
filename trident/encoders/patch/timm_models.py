"""Networks that timm has, built from their declaration. Imports torch and timm: import this module lazily."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.patch.spec import PatchEncoderSpec

_MODULES: dict[str, Any] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
"""What the names of modules in a declaration's arguments stand for."""


class _MeanOfLastMap(nn.Module):
    """(B, 3, H, W) -> (B, C): the last of a backbone's feature maps, averaged over the image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Tensor) -> Tensor:
        last: Tensor = self.backbone(batch)[-1]
        return last.mean(dim=(2, 3))


def build_network(spec: PatchEncoderSpec) -> nn.Module:
    """The bare network on the meta device: names and shapes, no memory. Its names are the published ones."""
    arguments = {
        key: _MODULES.get(value, value) if isinstance(value, str) else value for key, value in spec.arguments.items()
    }
    with torch.device("meta"):
        network: nn.Module = timm.create_model(spec.architecture, pretrained=False, **arguments)
    return network


def build(spec: PatchEncoderSpec, weights: Path) -> nn.Module:
    """The network with its weights, float32, in evaluation mode: (B, 3, H, W) -> (B, D).

    A custom input size needs nothing here: the position table is resampled to the input at each forward.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    network = load_into(build_network(spec), load_checkpoint(weights), weights, unused=spec.unused_weights)
    model = _MeanOfLastMap(network) if spec.pooling == "map-mean" else network
    return model.eval()
