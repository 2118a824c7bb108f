"""trident/features/batch_encoder.py: what happens when memory runs out."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trident.encoders.patch.base import CustomInferenceEncoder, PatchEncoder
from trident.errors import SettingsError, TridentError
from trident.features.batch_encoder import BatchEncoder, is_convolutional


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


class _Broken(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2")


def _unused(_: object) -> Tensor:
    raise AssertionError


def _encoder(model: nn.Module, dim: int = 3, threads: int = 1) -> BatchEncoder:
    encoder = PatchEncoder("small", model, _unused, torch.float16, embedding_dim=dim)
    return BatchEncoder(encoder, torch.device("cpu"), lambda pixels: pixels, threads=threads)


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
    with pytest.raises(RuntimeError, match="mat1"):
        _encoder(_Broken()).start(torch.rand(5, 3, 2, 2))


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


@pytest.mark.parametrize("n", [1, 3, 4, 17])
def test_parts_in_threads_keep_their_order(n: int) -> None:
    class Slow(nn.Module):
        """The first part comes last."""

        def forward(self, batch: Tensor) -> Tensor:
            seen.append((threading.current_thread().name, torch.get_num_threads(), len(batch)))
            time.sleep(0.02 if batch[0, 0, 0, 0] == 0 else 0)
            return batch.mean(dim=(2, 3))

    seen: list[tuple[str, int, int]] = []
    pixels = torch.arange(n).float().view(n, 1, 1, 1).expand(n, 3, 2, 2)
    with _encoder(Slow(), threads=4) as batch_encoder:
        got = batch_encoder.collect(batch_encoder.start(pixels))
    assert got[:, 0].tolist() == list(range(n))
    assert {cores for _, cores, _ in seen} == {1}
    assert all(name.startswith("trident-encode") for name, _, _ in seen)
    assert sum(count for _, _, count in seen) == n
    assert max(count for _, _, count in seen) == -(-n // 4)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trident-encode")]


def test_error_in_a_thread_passes() -> None:
    with pytest.raises(RuntimeError, match="mat1"), _encoder(_Broken(), threads=2) as batch_encoder:
        batch_encoder.start(torch.rand(5, 3, 2, 2))


def test_a_convolutional_network_is_laid_out_for_the_cpu_and_gives_the_same() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    pixels = torch.rand(6, 3, 20, 20)
    with torch.inference_mode():
        expected = network(pixels).numpy()
    encoder = CustomInferenceEncoder("conv", network, lambda image: image, torch.float32)
    encoder._embedding_dim = 8
    with BatchEncoder(encoder, torch.device("cpu"), lambda batch: batch, threads=2) as batch_encoder:
        got = batch_encoder.collect(batch_encoder.start(pixels))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert layers[3].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("model", "is_so"),
    [
        (nn.Conv2d(3, 8, 3), True),
        (nn.Sequential(nn.Conv2d(3, 8, 8), nn.Linear(100, 100)), False),
        (nn.Linear(3, 3), False),
        (nn.Identity(), False),
    ],
)
def test_is_convolutional(model: nn.Module, is_so: bool) -> None:
    assert is_convolutional(model) == is_so
