"""trident/encoders/patch/timm_models.py: the architectures, by the names and shapes of the published tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trident.encoders.patch.registry import SPECS
from trident.encoders.patch.timm_models import build_network

TIMM = [name for name, declared in SPECS.items() if declared.builder == "timm"]


@pytest.mark.parametrize("name", TIMM)
def test_names_and_shapes_are_the_published_ones(shared_reference: Path, name: str) -> None:
    declared = SPECS[name]
    manifest = json.loads((shared_reference / "manifests" / "patch" / f"{name}.json").read_text())
    published = {
        tensor: tuple(shape)
        for tensor, (_, shape) in manifest["tensors"].items()
        if not tensor.startswith(declared.unused_weights)
    }
    network = build_network(declared)
    assert {tensor: tuple(value.shape) for tensor, value in network.state_dict().items()} == published
    assert next(network.parameters()).is_meta


@pytest.mark.parametrize("name", [name for name in TIMM if name != "resnet50"])
def test_dimension(name: str) -> None:
    declared = SPECS[name]
    side = declared.input_size_px
    assert side is not None
    with torch.device("meta"):
        features = build_network(declared)(torch.empty(2, 3, side, side))
    assert features.shape == (2, declared.embedding_dim)
