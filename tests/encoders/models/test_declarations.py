"""trident/encoders/patch/models/declarations.py: what is published about each encoder, and what its network gives."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from trident.encoders.patch.models import conch, genbio, musk
from trident.encoders.patch.models.declarations import DECLARATIONS
from trident.encoders.patch.transforms import build_transform

PUBLISHED = {
    # name: dimension, magnification, patch, input, precision, repository, gated
    "conch_v1": (512, 20, 512, 448, "float32", "MahmoodLab/CONCH", True),
    "conch_v15": (768, 20, 512, 448, "float16", "MahmoodLab/conchv1_5", True),
    "ctranspath": (768, 10, 256, 224, "float32", "datasets/MahmoodLab/hest-bench", True),
    "musk": (1024, 20, 384, 384, "float16", "xiangjx/musk", True),
    "genbio-pathfm": (4608, 20, 224, 224, "bfloat16", "genbio-ai/genbio-pathfm", False),
    "gemma4-e4b": (768, 20, 224, 768, "bfloat16", "google/gemma-4-E4B", False),
    "gemma4-26b": (1152, 20, 224, 768, "bfloat16", "google/gemma-4-26B-A4B", False),
}


def test_facts() -> None:
    declared = {
        one.name: (
            one.embedding_dim,
            one.magnification,
            one.patch_size_px,
            one.input_size_px,
            one.precision,
            one.repo_id,
            one.gated,
        )
        for one in DECLARATIONS
    }
    assert declared == PUBLISHED


@pytest.mark.parametrize(
    ("name", "colour", "expected"),
    [
        ("conch_v1", (255, 0, 102), (1.93033625, -1.75209713, -0.02977307)),
        ("conch_v15", (255, 0, 102), (2.24890830, -2.03571429, -0.02666667)),
        ("ctranspath", (255, 0, 102), (2.24890830, -2.03571429, -0.02666667)),
        ("musk", (255, 0, 102), (1.0, -1.0, -0.2)),
        ("genbio-pathfm", (255, 0, 102), (1.61170213, -2.39583333, -1.75401070)),
    ],
)
def test_transform(name: str, colour: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    declared = next(one for one in DECLARATIONS if one.name == name)
    side = declared.input_size_px
    assert side is not None
    got = build_transform(declared.transform)(Image.new("RGB", (600, 600), colour))
    assert got.shape == (3, side, side)
    assert torch.allclose(got, torch.tensor(expected).view(3, 1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("network", "side_px", "dim"),
    [
        (lambda: conch.build_v1_network(normalize=True), 448, 512),
        (conch.build_v15_network, 448, 768),
        (lambda: musk.build_network(inference_aug=True), 384, 2048),
        (genbio.build_network, 224, 4608),
    ],
)
def test_dimension_of_the_whole_network(network: object, side_px: int, dim: int) -> None:
    with torch.device("meta"):
        features = network()(torch.empty(2, 3, side_px, side_px))  # type: ignore[operator]
    assert features.shape == (2, dim)
