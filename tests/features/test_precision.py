"""trident/features/precision.py: which type is used where, and that it changes the arithmetic on a CPU too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from trident.encoders.patch.base import CustomInferenceEncoder
from trident.features.loop import extract_features
from trident.features.precision import autocast, precision_name, used_precision

COORDS = np.arange(20, dtype=np.int64).reshape(10, 2)


@pytest.mark.parametrize(
    ("declared", "device", "asked", "used"),
    [
        (torch.float16, "cuda", "auto", torch.float16),
        (torch.float16, "cpu", "auto", torch.float32),
        (torch.float16, "cuda", "float32", torch.float32),
        (torch.float32, "cuda", "bfloat16", torch.bfloat16),
        (torch.float32, "cpu", "bfloat16", torch.bfloat16),
        (torch.bfloat16, "cpu", "float16", torch.float16),
    ],
)
def test_used_precision(declared: torch.dtype, device: str, asked: str, used: torch.dtype) -> None:
    assert used_precision(declared, device, asked) is used


def test_names() -> None:
    assert precision_name(torch.bfloat16) == "bfloat16"


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_autocast_computes_in_that_type(precision: torch.dtype) -> None:
    with autocast("cpu", precision):
        assert (torch.ones(2, 3) @ torch.ones(3, 2)).dtype is precision


class _Types(nn.Module):
    """Features of a linear layer; remembers in which type it computed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 8 * 8, 5)
        self.seen: set[torch.dtype] = set()

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.linear(batch.flatten(1))
        self.seen.add(features.dtype)
        return features


@pytest.mark.parametrize(
    ("precision", "used", "error"),
    [("auto", torch.float32, 0.0), ("float32", torch.float32, 0.0), ("bfloat16", torch.bfloat16, 0.02)],
)
def test_the_loop_computes_in_the_asked_type_and_gives_float32(precision: str, used: torch.dtype, error: float) -> None:
    model = _Types()
    encoder = CustomInferenceEncoder("types", model, transforms.Compose([transforms.ToTensor()]), torch.float16)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    encoder._embedding_dim = 5
    rows: list[np.ndarray] = []
    extract_features(
        lambda x, y: noise[y : y + 8, x : x + 8],
        COORDS,
        encoder,
        device="cpu",
        batch_size=4,
        workers=2,
        sink=rows.append,
        precision=precision,
    )
    assert model.seen == {used}
    got = np.concatenate(rows)
    assert got.dtype == np.float32
    patches = np.stack([noise[y : y + 8, x : x + 8] for x, y in COORDS.tolist()]).astype(np.float64) / 255
    weight, bias = (parameter.detach().numpy().astype(np.float64) for parameter in model.linear.parameters())
    expected = patches.transpose(0, 3, 1, 2).reshape(10, -1) @ weight.T + bias
    difference = np.abs(got - expected).max()
    assert difference < (error or 1e-5)
    assert error == 0.0 or difference > 1e-5  # another type indeed
