"""trident/features/batch_encoder.py: what happens when memory runs out."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from trident.encoders.patch.base import PatchEncoder
from trident.errors import SettingsError, TridentError
from trident.features.batch_encoder import BatchEncoder


class _Small(nn.Module):
    """Fails as a GPU does when it is given more than `fits` patches."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits
        self.tried: list[int] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.tried.append(len(batch))
        if len(batch) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch.mean(dim=(2, 3))


def _encoder(model: nn.Module, dim: int = 3) -> BatchEncoder:
    def unused(_: object) -> Tensor:
        raise AssertionError

    encoder = PatchEncoder("small", model, unused, torch.float16, embedding_dim=dim)
    return BatchEncoder(encoder, torch.device("cpu"), lambda pixels: pixels)


@pytest.mark.parametrize(
    ("fits", "n", "tried", "next_tried"),
    [
        (10, 10, [10], [10]),
        (4, 10, [10, 5, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2]),
        (5, 10, [10, 5, 5], [5, 5]),
        (1, 3, [3, 1, 1, 1], [1, 1, 1]),
    ],
)
def test_batch_is_halved(
    fits: int, n: int, tried: list[int], next_tried: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model = _Small(fits)
    encoder = _encoder(model)
    pixels = torch.rand(n, 3, 2, 2)
    with caplog.at_level(logging.WARNING):
        got = encoder.collect(encoder.start(pixels))
    assert torch.allclose(torch.from_numpy(got), pixels.mean(dim=(2, 3)))
    assert model.tried == tried
    assert ("out of memory" in caplog.text) == (fits < n)
    model.tried.clear()
    encoder.start(pixels)
    assert model.tried == next_tried  # learnt


def test_not_even_one_patch_fits() -> None:
    with pytest.raises(TridentError, match="encoder small runs out of memory on cpu with a single patch"):
        _encoder(_Small(0)).start(torch.rand(5, 3, 2, 2))


def test_other_errors_pass() -> None:
    class Broken(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2")

    with pytest.raises(RuntimeError, match="mat1"):
        _encoder(Broken()).start(torch.rand(5, 3, 2, 2))


def test_output_of_the_wrong_shape() -> None:
    encoder = _encoder(_Small(9), dim=4)
    with pytest.raises(SettingsError, match=r"features of shape \(5, 3\); expected \(patches, 4\)"):
        encoder.collect(encoder.start(torch.rand(5, 3, 2, 2)))


def test_a_cpu_computes_in_float32() -> None:
    class Linear(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            product = batch.flatten(1) @ torch.ones(12, 3)
            assert product.dtype is torch.float32
            assert not torch.is_grad_enabled()
            return product

    encoder = _encoder(Linear())
    assert encoder.collect(encoder.start(torch.rand(2, 3, 2, 2))).dtype.name == "float32"
