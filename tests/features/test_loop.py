"""trident/features/loop.py: the streaming loop against reading and encoding patch by patch."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from trident.encoders.patch.base import CustomInferenceEncoder, PatchEncoder
from trident.encoders.patch.factory import encoder_factory
from trident.errors import SettingsError, UnreadableSlideError, WeightsError
from trident.features.loop import extract_features
from trident.features.patch_batches import ReadPatch
from trident.features.report import FeatureReport
from trident.patching.grid import PatchGeometry, plan_read
from trident.patching.reader import PatchReader
from trident.slides.base import RGBImage
from trident.slides.registry import open_slide

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def read(shared_reference: Path) -> ReadPatch:
    """Patches of 96 px out of a real image."""
    image = np.asarray(Image.open(shared_reference / "patch512.png").convert("RGB"))

    def read_patch(x: int, y: int) -> RGBImage:
        return image[y : y + 96, x : x + 96]

    return read_patch


@pytest.fixture(scope="module")
def coords() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 512 - 96, (67, 2))


def _network() -> PatchEncoder:
    """A small network with everything that a large one has: convolution, normalisation, attention."""
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 32, 8, stride=8)
            self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

        def forward(self, batch: Tensor) -> Tensor:
            tokens: Tensor = self.block(self.embed(batch).flatten(2).transpose(1, 2))
            return tokens.mean(dim=1)

    steps = [transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    return CustomInferenceEncoder("small", Network(), transforms.Compose(steps), torch.float16)


def _one_by_one(read: ReadPatch, coords: np.ndarray, encoder: PatchEncoder) -> np.ndarray:
    encoder.eval()
    rows = []
    with torch.inference_mode():
        for x, y in coords.tolist():
            rows.append(encoder(encoder.eval_transforms(Image.fromarray(read(x, y))).unsqueeze(0)))
    return torch.cat(rows).numpy()


def _run(
    read: ReadPatch, coords: np.ndarray, encoder: PatchEncoder, *, batch_size: int = 8, workers: int | None = 2
) -> tuple[np.ndarray, FeatureReport]:
    rows: list[np.ndarray] = []
    report = extract_features(
        read, coords, encoder, device="cpu", batch_size=batch_size, workers=workers, sink=rows.append
    )
    return np.concatenate(rows) if rows else np.empty((0, encoder.embedding_dim), np.float32), report


def _lowest_cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


@pytest.mark.parametrize("workers", [0, 1, 4, None])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_equals_one_by_one(read: ReadPatch, coords: np.ndarray, batch_size: int, workers: int | None) -> None:
    encoder = _network()
    expected = _one_by_one(read, coords, encoder)
    # Rows must differ enough for their order to be seen.
    assert np.abs(expected[1:] - expected[:-1]).max(axis=1).min() > 1e-3
    got, report = _run(read, coords, encoder, batch_size=batch_size, workers=workers)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert _lowest_cosine(got, expected) > 0.9999999
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (report.n_patches, report.unreadable, report.batch_size) == (67, [], batch_size)


def test_equals_one_by_one_for_the_encoder_without_weights(read: ReadPatch, coords: np.ndarray) -> None:
    encoder = encoder_factory("stain-stats")
    got, _ = _run(read, coords[:20], encoder)
    assert _lowest_cosine(got, _one_by_one(read, coords[:20], encoder)) > 0.9999999


def test_no_patches(read: ReadPatch) -> None:
    got, report = _run(read, np.empty((0, 2), np.int64), _network())
    assert got.shape == (0, 32)
    assert (report.n_patches, report.unreadable) == (0, [])


def test_progress_and_seconds(read: ReadPatch, coords: np.ndarray) -> None:
    progress: list[tuple[int, int]] = []
    sizes: list[int] = []
    report = extract_features(
        read,
        coords,
        _network(),
        device="cpu",
        batch_size=30,
        workers=2,
        sink=lambda features: sizes.append(len(features)),
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert sizes == [30, 30, 7]
    assert progress == [(30, 67), (60, 67), (67, 67)]
    seconds = report.seconds
    assert min(seconds.decode, seconds.transform, seconds.encode, seconds.write) > 0


def test_sink_may_keep_what_it_gets(read: ReadPatch, coords: np.ndarray) -> None:
    encoder = _network()
    kept: list[np.ndarray] = []
    copied: list[np.ndarray] = []

    def sink(features: np.ndarray) -> None:
        kept.append(features)
        copied.append(features.copy())

    extract_features(read, coords, encoder, device="cpu", batch_size=4, workers=2, sink=sink)
    np.testing.assert_array_equal(np.concatenate(kept), np.concatenate(copied))


def test_unreadable_patch_is_encoded_as_black(read: ReadPatch, coords: np.ndarray) -> None:
    encoder = _network()
    bad = tuple(coords[5].tolist())

    def sometimes(x: int, y: int) -> RGBImage:
        if (x, y) == bad:
            raise UnreadableSlideError("/slides/a.svs", "does not decode")
        return read(x, y)

    rows: list[np.ndarray] = []
    report = extract_features(
        sometimes,
        coords,
        encoder,
        device="cpu",
        batch_size=8,
        workers=2,
        sink=rows.append,
        max_unreadable_share=0.02,
    )
    assert report.unreadable == [5]
    expected = _one_by_one(read, coords, encoder)
    expected[5] = _one_by_one(lambda x, y: np.zeros((96, 96, 3), np.uint8), coords[:1], encoder)[0]
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)


class _Poisoned(nn.Module):
    """NaN for the brightest patch."""

    def forward(self, batch: Tensor) -> Tensor:
        mean = batch.mean(dim=(2, 3))
        return torch.where(mean > 0.999, float("nan"), mean)


def test_nan_names_encoder_and_patch() -> None:
    def read(x: int, y: int) -> RGBImage:
        return np.full((8, 8, 3), 255 if x == 60 else 100, np.uint8)

    encoder = CustomInferenceEncoder(
        "poisoned", _Poisoned(), transforms.Compose([transforms.ToTensor()]), torch.float32
    )
    coords = np.array([[10 * index, 3] for index in range(9)])
    expected = r"encoder poisoned gave NaN .* 1 of 4 patches, first for the one at \(60, 3\); .*transform gives them$"
    with pytest.raises(WeightsError, match=expected):
        _run(read, coords, encoder, batch_size=4)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failing_sink_ends_the_threads(read: ReadPatch, coords: np.ndarray, error: BaseException) -> None:
    def sink(features: np.ndarray) -> None:
        raise error

    with pytest.raises(type(error)):
        extract_features(read, coords, _network(), device="cpu", batch_size=4, workers=3, sink=sink)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trident-read")]


def test_memory_shortage_is_reported(read: ReadPatch, coords: np.ndarray) -> None:
    class Small(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            if len(batch) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return batch.mean(dim=(2, 3))

    encoder = CustomInferenceEncoder("small", Small(), transforms.Compose([transforms.ToTensor()]), torch.float32)
    got, report = _run(read, coords, encoder, batch_size=16)
    np.testing.assert_allclose(got, _one_by_one(read, coords, encoder), atol=1e-6)
    assert report.batch_size == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"workers": -1}, "number of workers -1"),
        ({"coords": np.zeros((3, 3), np.int64)}, r"shape \(3, 3\); expected \(patches, 2\)"),
        ({"coords": np.zeros(4, np.int64)}, r"shape \(4,\)"),
    ],
)
def test_impossible_arguments(read: ReadPatch, change: dict[str, object], expected: str) -> None:
    arguments = {"coords": np.zeros((2, 2), np.int64), "batch_size": 1, "workers": 0, **change}
    with pytest.raises(SettingsError, match=expected):
        extract_features(read, encoder=_network(), device="cpu", sink=lambda _: None, **arguments)  # type: ignore[arg-type]


def test_a_model_that_gives_its_input_back(read: ReadPatch, coords: np.ndarray) -> None:
    """Its features must not be written over by the next batch."""

    class Corner(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return batch[:, :, 0, 0]

    encoder = CustomInferenceEncoder("corner", Corner(), transforms.Compose([transforms.ToTensor()]), torch.float32)
    got, _ = _run(read, coords, encoder, batch_size=4)
    np.testing.assert_array_equal(got, _one_by_one(read, coords, encoder))


@pytest.mark.parametrize("target_mag", [10, 20, 40])
def test_a_slides_reader_gives_the_plain_loops_features(shared_slides: Path, target_mag: int) -> None:
    """Read, resized and normalised in batches; against OpenSlide, PIL and torchvision patch by patch."""
    path = shared_slides / "CMU-1-Small-Region.svs"
    encoder = _network()
    with open_slide(path) as slide, open_slide(path, reader_type="openslide") as plain:
        geometry = PatchGeometry(96, 16, target_mag, slide.magnification, *slide.dimensions)
        coords = geometry.corners()
        coords = coords[:: max(1, len(coords) // 60)]
        plan = plan_read(geometry, slide.level_downsamples)
        rows: list[np.ndarray] = []
        extract_features(
            PatchReader(slide, plan), coords, encoder, device="cpu", batch_size=16, workers=2, sink=rows.append
        )
        expected = _one_by_one(PatchReader(plain, plan).read, coords, encoder)
    got = np.concatenate(rows)
    assert got.shape == expected.shape
    assert _lowest_cosine(got, expected) > 0.9999
