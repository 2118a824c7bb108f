"""trident/features/pixels.py against PIL and torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from trident.features import pixels as functions
from trident.features.pixels import Mode, crop_centre, normalise, resize, resize_with_pil

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def images(side_px: int) -> torch.Tensor:
    """Noise, and noise of black and white only: as hard as it gets."""
    chance = np.random.default_rng(0)
    noise = chance.integers(0, 256, (3, side_px, side_px, 3), dtype=np.uint8)
    harsh = (chance.random((2, side_px, side_px, 1)) > 0.5).repeat(3, axis=3).astype(np.uint8) * 255
    return torch.from_numpy(np.concatenate([noise, harsh]))


def by_pil(batch: torch.Tensor, side_px: int, mode: Mode) -> torch.Tensor:
    resized = [Image.fromarray(image).resize((side_px, side_px), FILTERS[mode]) for image in batch.numpy()]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized]))


def difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    assert one.dtype == other.dtype == torch.uint8
    assert one.shape == other.shape
    return (one.int() - other.int()).abs()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side_px", "to_px"), [(512, 256), (448, 224), (256, 64), (128, 256), (300, 100), (64, 64)])
def test_a_multiple_is_within_a_grey_level_of_pil(side_px: int, to_px: int, mode: Mode) -> None:
    batch = images(side_px)
    assert difference(resize(batch, to_px, to_px, mode), by_pil(batch, to_px, mode)).max() <= 1


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side_px", "to_px"), [(256, 224), (512, 224), (256, 336)])
def test_other_sizes_seldom_differ_more(side_px: int, to_px: int, mode: Mode) -> None:
    batch = images(side_px)
    off = difference(resize(batch, to_px, to_px, mode), by_pil(batch, to_px, mode))
    assert off.max() <= 2
    assert (off > 1).float().mean() < 2e-4


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side_px", "to_px"), [(512, 256), (512, 224), (128, 256), (256, 224)])
def test_the_arithmetic_for_a_gpu(side_px: int, to_px: int, mode: Mode) -> None:
    batch = images(side_px)
    planes = functions._resize_in_float(batch.permute(0, 3, 1, 2), to_px, to_px, mode)
    off = difference(planes.permute(0, 2, 3, 1), by_pil(batch, to_px, mode))
    assert off.max() <= (1 if max(side_px, to_px) % min(side_px, to_px) == 0 else 2)
    assert (off > 1).float().mean() < 2e-4


def test_pil_itself() -> None:
    batch = images(100)
    assert torch.equal(resize_with_pil(batch, 77, 77), by_pil(batch, 77, "bicubic"))


def test_a_window_on_a_larger_image(shared_reference: Path) -> None:
    image = torch.from_numpy(np.array(Image.open(shared_reference / "patch512.png").convert("RGB")))
    window = image[None, 11:411, 7:407]
    assert difference(resize(window, 200, 200, "bicubic"), by_pil(window.contiguous(), 200, "bicubic")).max() <= 1


@pytest.mark.parametrize("size", [(50, 50), (51, 50), (96, 13), (1, 2)])
def test_crop(size: tuple[int, int]) -> None:
    batch = images(96)
    expected = transforms.CenterCrop(size)(Image.fromarray(batch[0].numpy()))
    assert np.array_equal(crop_centre(batch, *size)[0].numpy(), np.asarray(expected))


@pytest.mark.parametrize("given", [False, True])
def test_normalise_is_torchvisions_to_the_bit(given: bool) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    batch = torch.from_numpy(np.stack([every, every[::-1]]))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    out = torch.empty((2, 3, 16, 16)) if given else None
    got = normalise(batch, torch.tensor(mean), torch.tensor(std), out)
    assert got.is_contiguous()
    assert out is None or got.data_ptr() == out.data_ptr()
    assert torch.equal(got, torch.stack([transform(Image.fromarray(image)) for image in batch.numpy()]))
    assert torch.equal(normalise(batch, None, None)[0], transforms.ToTensor()(every))
