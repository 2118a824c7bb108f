"""trident/features/prepare.py: the split transform gives what the whole one gives."""

from __future__ import annotations

from collections.abc import Callable

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


@pytest.mark.parametrize("name", ["uni_v1", "gigapath", "lunit-vits8", "stain-stats"])
def test_declared_transforms_are_split_and_exact(name: str) -> None:
    transform = build_transform(SPECS[name].transform)
    preparer = PatchPreparer(transform, PATCH)
    prepared = preparer.prepare(PATCH)
    assert prepared.dtype == np.uint8
    batch = preparer.finish(torch.from_numpy(np.stack([prepared, prepared])))
    whole = transform(Image.fromarray(PATCH))
    assert torch.equal(batch, torch.stack([whole, whole]))


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
    preparer = PatchPreparer(transform, PATCH)
    prepared = preparer.prepare(PATCH)
    assert prepared.dtype == np.float32
    batch = preparer.finish(torch.from_numpy(np.stack([prepared])))
    assert torch.equal(batch[0], transform(Image.fromarray(PATCH)).float())
