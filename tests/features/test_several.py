"""trident/features/loop.py with several encoders: one read of each patch, and for each encoder what it gets alone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from trident.demo import draw_demo_slide
from trident.encoders.patch.base import CustomInferenceEncoder, PatchEncoder
from trident.errors import SettingsError, StoreError, UnreadableSlideError, WeightsError
from trident.features.encoder_output import EncoderTarget
from trident.features.loop import extract_features, extract_with_several
from trident.features.preparations import Preparations
from trident.features.report import FeatureReport
from trident.patching.grid import PatchGeometry, plan_read
from trident.patching.reader import PatchReader
from trident.slides.base import RGBImage
from trident.slides.registry import open_slide

Steps = list[Callable[..., object]]
END: Steps = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


class _Network(nn.Module):
    def __init__(self, dim: int, first_value: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(dim)
        self.conv = nn.Conv2d(3, dim, 7, stride=7)
        self.norm = nn.BatchNorm2d(dim)
        self.first_value = first_value

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(batch)).relu().mean(dim=(2, 3))
        return features if self.first_value is None else features * self.first_value


def _encoder(name: str, dim: int, *steps: Callable[..., object], first_value: float | None = None) -> PatchEncoder:
    transform = transforms.Compose([*steps, *END])
    return CustomInferenceEncoder(name, _Network(dim, first_value), transform, torch.float16)


def _encoders() -> list[PatchEncoder]:
    """Transforms that share a preparation, that differ, that run on PIL images, and that cannot be split."""
    whole = transforms.Compose([transforms.Resize(40), transforms.ToTensor(), transforms.Lambda(lambda x: x * 2)])
    return [
        _encoder("plain", 3),
        _encoder("resized", 4, transforms.Resize(48), transforms.CenterCrop(42)),
        _encoder("resized too", 5, transforms.Resize(48), transforms.CenterCrop(42)),
        _encoder("grey", 6, transforms.Grayscale(3)),
        CustomInferenceEncoder("whole", _Network(7), whole, torch.float16),
    ]


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "slide.svs"
    draw_demo_slide(path, seed=1, width_px=1024, height_px=768, mpp=0.25)
    return path


def _alone(reader: PatchReader, coords: np.ndarray, encoder: PatchEncoder, workers: int) -> np.ndarray:
    rows: list[np.ndarray] = []
    extract_features(reader, coords, encoder, device="cpu", batch_size=5, workers=workers, sink=rows.append)
    return np.concatenate(rows)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mag", [40, 20])
def test_each_encoder_gets_what_it_gets_alone_to_the_bit(slide_path: Path, mag: int, workers: int) -> None:
    with open_slide(slide_path) as slide:
        geometry = PatchGeometry(64, 0, mag, 40, *slide.dimensions)
        reader = PatchReader(slide, plan_read(geometry, slide.level_downsamples))
        coords = geometry.corners()[:23]
        encoders = _encoders()
        together: list[list[np.ndarray]] = [[] for _ in encoders]
        reports = extract_with_several(
            reader,
            coords,
            [EncoderTarget(encoder, rows.append) for encoder, rows in zip(encoders, together, strict=True)],
            device="cpu",
            batch_size=5,
            workers=workers,
        )
        for encoder, rows, report in zip(encoders, together, reports, strict=True):
            assert isinstance(report, FeatureReport)
            assert (report.n_patches, report.unreadable) == (23, [])
            got = np.concatenate(rows)
            assert np.ptp(got, axis=0).max() > 1e-3
            np.testing.assert_array_equal(got, _alone(reader, coords, encoder, workers), err_msg=encoder.enc_name)


def test_each_patch_is_read_once() -> None:
    reads: Counter[tuple[int, int]] = Counter()
    lock = threading.Lock()

    def read(x: int, y: int) -> RGBImage:
        with lock:
            reads[x, y] += 1
        return np.full((48, 48, 3), x, np.uint8)

    coords = np.stack([np.arange(20), np.zeros(20)], axis=1).astype(np.int64)
    sink = _ignore
    extract_with_several(
        read, coords, [EncoderTarget(one, sink) for one in _encoders()], device="cpu", batch_size=4, workers=2
    )
    assert reads.pop((0, 0)) == 2  # once to learn what a patch looks like
    assert set(reads.values()) == {1}


def test_equal_preparations_are_shared() -> None:
    preparations = Preparations([encoder.eval_transforms for encoder in _encoders()], (64, 64))
    assert preparations.slots == [0, 1, 1, 2, 3]
    on_device = Preparations([encoder.eval_transforms for encoder in _encoders()[:3]], (64, 64), on_device=True)
    assert on_device.slots == [0, 0, 0]
    assert on_device.direct == 0


def _read(x: int, y: int) -> RGBImage:
    return np.random.default_rng(x).integers(0, 256, (48, 48, 3), dtype=np.uint8)


def _ignore(features: np.ndarray) -> None:
    pass


def _full_disk(features: np.ndarray) -> None:
    raise StoreError("no space")


COORDS = np.stack([np.arange(17), np.zeros(17)], axis=1).astype(np.int64)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_encoder_that_fails_does_not_stop_the_others(workers: int) -> None:
    rows: list[np.ndarray] = []
    last: list[np.ndarray] = []
    progress: list[int] = []
    targets = [
        EncoderTarget(_encoder("nan", 2, first_value=float("nan")), _ignore),
        EncoderTarget(_encoder("good", 3), rows.append),
        EncoderTarget(_encoder("no disk", 4), _full_disk),
        EncoderTarget(_encoder("good too", 5), last.append),
    ]
    outcomes = extract_with_several(
        _read,
        COORDS,
        targets,
        device="cpu",
        batch_size=4,
        workers=workers,
        on_progress=lambda done, _: progress.append(done),
    )
    assert [type(outcome) for outcome in outcomes] == [WeightsError, FeatureReport, StoreError, FeatureReport]
    assert progress == [4, 8, 12, 16, 17]
    for encoder, got in ((targets[1].encoder, rows), (targets[3].encoder, last)):
        alone: list[np.ndarray] = []
        extract_features(_read, COORDS, encoder, device="cpu", batch_size=4, workers=workers, sink=alone.append)
        np.testing.assert_array_equal(np.concatenate(got), np.concatenate(alone))


class _Breaks:
    """A transform that fails from its nth call on."""

    def __init__(self, n_calls: int) -> None:
        self.left = n_calls

    def __call__(self, image: Image.Image) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise ValueError("broken")
        tensor: Tensor = transforms.functional.to_tensor(image)
        return tensor


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("n_calls", [0, 1, 4, 9])
def test_a_transform_that_fails_does_not_stop_the_others(workers: int, n_calls: int, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        geometry = PatchGeometry(64, 0, 40, 40, *slide.dimensions)
        reader = PatchReader(slide, plan_read(geometry, slide.level_downsamples))
        corners = geometry.corners()[:17]
        for read, coords in ((_read, COORDS), (reader, corners)):
            rows: list[np.ndarray] = []
            targets = [
                EncoderTarget(CustomInferenceEncoder("a", _Network(2), _Breaks(n_calls), torch.float16), _ignore),
                EncoderTarget(_encoder("good", 3), rows.append),
                EncoderTarget(CustomInferenceEncoder("b", _Network(2), _Breaks(5), torch.float16), _ignore),
            ]
            outcomes = extract_with_several(read, coords, targets, device="cpu", batch_size=4, workers=workers)
            assert [type(outcome) for outcome in outcomes] == [ValueError, FeatureReport, ValueError]
            alone: list[np.ndarray] = []
            extract_features(
                read, coords, targets[1].encoder, device="cpu", batch_size=4, workers=workers, sink=alone.append
            )
            np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(alone))


@pytest.mark.parametrize("n_calls", [0, 5])
def test_reading_ends_when_all_transforms_have_failed(n_calls: int) -> None:
    reads: list[int] = []

    def read(x: int, y: int) -> RGBImage:
        reads.append(x)
        return _read(x, y)

    coords = np.stack([np.arange(500), np.zeros(500)], axis=1).astype(np.int64)
    targets = [
        EncoderTarget(CustomInferenceEncoder(name, _Network(2), _Breaks(n_calls), torch.float16), _ignore)
        for name in "ab"
    ]
    outcomes = extract_with_several(read, coords, targets, device="cpu", batch_size=4, workers=2)
    assert [str(outcome) for outcome in outcomes] == ["broken", "broken"]
    assert len(reads) < 100
    with pytest.raises(ValueError, match="broken"):
        extract_features(read, coords, targets[0].encoder, device="cpu", batch_size=4, workers=2, sink=_ignore)


def test_an_encoder_that_does_not_fit_on_the_device_does_not_stop_the_others() -> None:
    class Encoder(CustomInferenceEncoder):
        def to(self, *args: object, **kwargs: object) -> CustomInferenceEncoder:
            raise torch.OutOfMemoryError("out of memory")

    rows: list[np.ndarray] = []
    transform = transforms.Compose(END)
    targets = [
        EncoderTarget(Encoder("large", _Network(2), transform, torch.float16), _ignore),
        EncoderTarget(_encoder("good", 3), rows.append),
    ]
    outcomes = extract_with_several(_read, COORDS, targets, device="cpu", batch_size=4, workers=2)
    assert [type(outcome) for outcome in outcomes] == [torch.OutOfMemoryError, FeatureReport]
    assert sum(map(len, rows)) == len(COORDS)
    (outcome,) = extract_with_several(_read, COORDS, targets[:1], device="cpu", batch_size=4, workers=2)
    assert isinstance(outcome, torch.OutOfMemoryError)


def test_reading_ends_when_all_encoders_have_failed() -> None:
    reads: list[int] = []

    def read(x: int, y: int) -> RGBImage:
        reads.append(x)
        return _read(x, y)

    targets = [EncoderTarget(_encoder(name, 3), _full_disk) for name in "ab"]
    coords = np.stack([np.arange(500), np.zeros(500)], axis=1).astype(np.int64)
    outcomes = extract_with_several(read, coords, targets, device="cpu", batch_size=4, workers=2)
    assert [type(outcome) for outcome in outcomes] == [StoreError, StoreError]
    assert len(reads) < 100


def test_what_concerns_all_is_raised() -> None:
    def unreadable(x: int, y: int) -> RGBImage:
        raise UnreadableSlideError(Path("a.svs"), "no")

    targets = [EncoderTarget(_encoder(name, 3), _ignore) for name in "ab"]
    with pytest.raises(UnreadableSlideError):
        extract_with_several(unreadable, COORDS, targets, device="cpu", batch_size=4, workers=2)
    with pytest.raises(SettingsError, match="batch size"):
        extract_with_several(_read, COORDS, targets, device="cpu", batch_size=0, workers=2)


def test_an_unreadable_patch_is_black_for_all() -> None:
    def read(x: int, y: int) -> RGBImage:
        if x == 3:
            raise UnreadableSlideError(Path("a.svs"), "no")
        return _read(x, y)

    encoders = _encoders()[:4]
    together: list[list[np.ndarray]] = [[] for _ in encoders]
    targets = [EncoderTarget(encoder, rows.append) for encoder, rows in zip(encoders, together, strict=True)]
    outcomes = extract_with_several(
        read, COORDS, targets, device="cpu", batch_size=4, workers=2, max_unreadable_share=0.5
    )
    for encoder, rows, outcome in zip(encoders, together, outcomes, strict=True):
        assert isinstance(outcome, FeatureReport)
        assert outcome.unreadable == [3]
        with torch.inference_mode():
            black = encoder.eval()(encoder.eval_transforms(Image.new("RGB", (48, 48))).unsqueeze(0))
        np.testing.assert_allclose(np.concatenate(rows)[3], black[0].numpy(), atol=1e-6)


def test_seconds_of_the_others() -> None:
    targets = [EncoderTarget(_encoder(name, 3), _ignore) for name in "abc"]
    first, *others = extract_with_several(_read, COORDS, targets, device="cpu", batch_size=4, workers=2)
    assert isinstance(first, FeatureReport)
    spent = [other.seconds.encode + other.seconds.write for other in others if isinstance(other, FeatureReport)]
    assert first.seconds.others == pytest.approx(sum(spent))
    assert len(spent) == 2
