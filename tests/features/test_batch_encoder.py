"""trident/features/batch_encoder.py: memory that runs out, encoders that keep something, threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

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
    encoder = PatchEncoder("small", model, _unused, torch.float16, embedding_dim=dim, reentrant=threads > 1)
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
    with pytest.raises(TridentError, match="encoder small runs out of memory on cpu with a single patch") as caught:
        _encoder(_Small(0)).start(torch.rand(5, 3, 2, 2))
    assert "--gpus" not in str(caught.value)  # that is where it computes


def test_not_even_one_patch_fits_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = _encoder(_Small(0))
    monkeypatch.setattr(encoder, "_device", torch.device("cuda"))
    monkeypatch.setattr(encoder, "_try", lambda pixels: None)
    with pytest.raises(TridentError, match=r"on cuda with a single patch; .*use the CPU \(--gpus -1\)"):
        encoder.start(torch.rand(5, 3, 2, 2))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mat1"):
        _encoder(_Broken()).start(torch.rand(5, 3, 2, 2))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),  # a class of newer releases
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_every_way_to_say_that_memory_ran_out(error: RuntimeError) -> None:
    class Large(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            if len(batch) > 2:
                raise error
            return batch.mean(dim=(2, 3))

    encoder, pixels = _encoder(Large()), torch.rand(7, 3, 2, 2)
    assert torch.equal(torch.from_numpy(encoder.collect(encoder.start(pixels))), pixels.mean(dim=(2, 3)))
    assert encoder.largest == 1


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda batch: batch.mean(dim=(2, 3)), r"\(5, 3\)"),
        (lambda batch: batch[:2].flatten(1)[:, :4], r"\(2, 4\)"),
        (lambda batch: batch.flatten(1)[:, :4].tolist(), "list"),
        (lambda batch: batch, r"\(5, 3, 2, 2\)"),
    ],
    ids=["dim", "rows", "no tensor", "map"],
)
def test_output_of_the_wrong_shape(forward: Callable[[Tensor], object], found: str) -> None:
    class Wrong(nn.Module):
        def forward(self, batch: Tensor) -> object:
            return forward(batch)

    encoder = _encoder(Wrong(), dim=4)
    with pytest.raises(SettingsError, match=rf"gave {found} for 5 patches; .* \(5, 4\)"):
        encoder.start(torch.rand(5, 3, 2, 2))


class _Keeps(nn.Module):
    """Reads its features from what it left on itself, as a forward hook does, and gives the same memory each time."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor
        self.features = torch.empty(0, 3)
        self.has_begun = threading.Event()

    def forward(self, batch: Tensor) -> Tensor:
        self.kept = batch
        self.has_begun.set()
        time.sleep(0.01)  # a chance for another thread
        if len(self.features) != len(batch):
            self.features = torch.empty(len(batch), 3)
        return torch.mean(self.kept, dim=(2, 3), out=self.features)


@pytest.mark.parametrize("threads", [1, 4])
def test_an_encoder_that_keeps_something_is_called_once_at_a_time(threads: int) -> None:
    model = _Keeps()
    encoder = PatchEncoder("keeps", model, _unused, torch.float32, embedding_dim=3)
    slides = [torch.rand(6, 8, 3, 2, 2) for _ in range(2)]
    got: dict[int, list[Tensor]] = {}

    def encode(number: int) -> None:
        with BatchEncoder(encoder, torch.device("cpu"), lambda batch: batch, threads=threads) as batch_encoder:
            started = [batch_encoder.start(batch) for batch in slides[number]]  # all before the first is collected
            got[number] = [torch.from_numpy(batch_encoder.collect(one)) for one in started]

    both = [threading.Thread(target=encode, args=(number,)) for number in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    for number, slide in enumerate(slides):
        assert torch.equal(torch.stack(got[number]), slide.mean(dim=(3, 4)))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asked", ["auto", "float32", "float16", "bfloat16"])
def test_weights_in_half_precision_run_on_a_cpu(half: torch.dtype, asked: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).to(half).eval()
    weight, bias = (values.detach().to(torch.float32) for values in network[1].parameters())
    encoder = CustomInferenceEncoder("half", network, lambda image: torch.ones(3, 2, 2), half)
    assert encoder.embedding_dim == 4
    pixels = torch.rand(5, 3, 2, 2)
    with BatchEncoder(encoder, torch.device("cpu"), lambda batch: batch, precision=asked) as batch_encoder:
        got = batch_encoder.collect(batch_encoder.start(pixels))
    tolerance = 1e-6 if asked in ("auto", "float32") else 2e-2
    np.testing.assert_allclose(got, pixels.flatten(1) @ weight.T + bias, atol=tolerance)


class _Casts(nn.Module):
    """Computes in a type of its own, wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4).to(torch.bfloat16)

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.layer(batch.flatten(1).to(torch.bfloat16))
        return features


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16"])
def test_a_network_that_casts_its_input_stays_in_half_precision(asked: str) -> None:
    torch.manual_seed(0)
    network = _Casts().eval()
    weight, bias = (values.detach().to(torch.float32) for values in network.layer.parameters())
    encoder = CustomInferenceEncoder("casts", network, lambda image: torch.ones(3, 2, 2), torch.bfloat16)
    pixels = torch.rand(5, 3, 2, 2)
    with BatchEncoder(encoder, torch.device("cpu"), lambda batch: batch, precision=asked) as batch_encoder:
        got = batch_encoder.collect(batch_encoder.start(pixels))
    np.testing.assert_allclose(got, pixels.flatten(1) @ weight.T + bias, atol=2e-2)
    assert network.layer.weight.dtype is torch.bfloat16


def test_no_other_thread_runs_the_model_while_its_dimension_is_found() -> None:
    """The model is one that keeps something; finding out (B, D) runs it."""
    model = _Keeps()
    encoder = CustomInferenceEncoder("keeps", model, lambda image: torch.ones(3, 2, 2), torch.float32)
    encoder._embedding_dim = 3
    first = BatchEncoder(encoder, torch.device("cpu"), lambda batch: batch)
    encoder._embedding_dim = None
    made: list[BatchEncoder] = []
    second = threading.Thread(
        target=lambda: made.append(BatchEncoder(encoder, torch.device("cpu"), lambda batch: batch))
    )
    with first._turn:
        second.start()
        assert not model.has_begun.wait(0.2)
    second.join()
    assert model.has_begun.is_set()
    assert made[0]._dim == 3


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
    encoder = CustomInferenceEncoder("conv", network, lambda image: image, torch.float32, reentrant=True)
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
