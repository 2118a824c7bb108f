"""trident/features/prepare.py: the split transform gives what the whole one gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from trident.encoders.patch.registry import SPECS
from trident.encoders.patch.transforms import build_transform
from trident.features.prepare import PatchPreparer

PATCH = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)


class _OtherToTensor(transforms.ToTensor):  # type: ignore[misc]
    def __call__(self, image: Image.Image) -> torch.Tensor:
        tensor: torch.Tensor = super().__call__(image)
        return tensor * 2


IMAGENET = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def _batch(preparer: PatchPreparer, patch: np.ndarray) -> torch.Tensor:
    prepared = preparer.prepare(np.stack([patch, patch[::-1]]))
    assert prepared.dtype == np.uint8
    return preparer.finish(torch.from_numpy(np.ascontiguousarray(prepared)))


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [transforms.CenterCrop(64)],
        [transforms.CenterCrop((31, 80))],
        [transforms.CenterCrop(90)],
        [transforms.Resize(80), transforms.CenterCrop(80)],
        [transforms.RandomHorizontalFlip(1.0), transforms.Resize(50)],
        [transforms.Resize(50, interpolation=transforms.InterpolationMode.LANCZOS)],
        [transforms.Resize((24, 160))],
    ],
    ids=[
        "nothing",
        "crop",
        "oblong crop",
        "crop that pads",
        "resize to the same",
        "unknown step",
        "lanczos",
        "stretched",
    ],
)
@pytest.mark.parametrize("last", [[], [IMAGENET]], ids=["plain", "normalised"])
def test_exact(steps: list[Any], last: list[Any]) -> None:
    transform = transforms.Compose([*steps, transforms.ToTensor(), *last])
    batch = _batch(PatchPreparer(transform, PATCH.shape[:2]), PATCH)
    whole = torch.stack([transform(Image.fromarray(patch)) for patch in (PATCH, PATCH[::-1])])
    assert torch.equal(batch, whole)
    assert batch.is_contiguous()


BICUBIC = transforms.InterpolationMode.BICUBIC


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    "steps",
    [
        [transforms.Resize(40)],
        [transforms.Resize(40, interpolation=BICUBIC), transforms.CenterCrop(32)],
        [transforms.Resize((48, 40), interpolation=BICUBIC)],
        [transforms.Resize([48]), transforms.Resize(96)],
    ],
    ids=["shorter side", "and crop", "both sides", "twice"],
)
def test_resized_patches_are_within_a_grey_level(steps: list[Any], on_device: bool) -> None:
    transform = transforms.Compose([*steps, transforms.ToTensor()])
    preparer = PatchPreparer(transform, PATCH.shape[:2], on_device=on_device)
    assert preparer.keeps_regions is on_device
    batch = _batch(preparer, PATCH)
    whole = torch.stack([transform(Image.fromarray(patch)) for patch in (PATCH, PATCH[::-1])])
    assert batch.shape == whole.shape
    assert (batch - whole).abs().max() <= 1.001 / 255


@pytest.mark.parametrize("name", ["uni_v1", "gigapath", "lunit-vits8", "stain-stats"])
def test_declared_transforms(name: str) -> None:
    transform = build_transform(SPECS[name].transform)
    image = np.ascontiguousarray(PATCH[:80])
    got = _batch(PatchPreparer(transform, (80, 80)), image)
    whole = transform(Image.fromarray(image))
    std = torch.tensor(SPECS[name].transform.std or (1.0,) * 3).view(3, 1, 1)
    assert ((got[0] - whole) * std).abs().max() <= 2.001 / 255


@pytest.mark.parametrize("side_px", [96, 128, 32, 100], ids=["twice", "a third more", "two thirds", "odd"])
@pytest.mark.parametrize("on_device", [False, True])
def test_regions_become_patches(side_px: int, on_device: bool) -> None:
    region = np.random.default_rng(1).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    transform = transforms.Compose([transforms.CenterCrop(40), transforms.ToTensor(), IMAGENET])
    preparer = PatchPreparer(transform, (side_px, side_px), patch_size_px=48, on_device=on_device)
    got = _batch(preparer, region)
    patch = Image.fromarray(region).resize((48, 48), Image.Resampling.BICUBIC)
    std = torch.tensor(IMAGENET.std).view(3, 1, 1)
    assert ((got[0] - transform(patch)) * std).abs().max() <= 1.001 / 255


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: transforms.functional.to_tensor(image).double(),
        transforms.Compose([transforms.ToTensor(), transforms.Resize(32)]),
        transforms.Compose([transforms.Resize(32), _OtherToTensor()]),
        transforms.Compose([transforms.Grayscale(), transforms.ToTensor()]),
        transforms.Compose([transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5), transforms.CenterCrop(32)]),
        transforms.ToTensor(),
    ],
    ids=["function", "resize last", "subclass", "grey", "grey normalised", "crop last", "bare"],
)
def test_other_transforms_run_whole(transform: Callable[[Image.Image], torch.Tensor]) -> None:
    preparer = PatchPreparer(transform, PATCH.shape[:2])
    prepared = preparer.prepare(PATCH[np.newaxis])
    assert prepared.dtype == np.float32
    batch = preparer.finish(torch.from_numpy(prepared))
    assert torch.equal(batch[0], transform(Image.fromarray(PATCH)).float())
