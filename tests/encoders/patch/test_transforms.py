"""trident/encoders/patch/transforms.py: every declared transform against PIL and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from trident.encoders.patch.registry import SPECS
from trident.encoders.patch.spec import TransformSpec
from trident.encoders.patch.transforms import build_transform

NAMES = [name for name, declared in SPECS.items() if not declared.transform_builder]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _by_hand(transform: TransformSpec, image: Image.Image) -> np.ndarray:
    """The same for an image that is no higher than wide."""
    if transform.resize_px is not None:
        width = int(transform.resize_px * image.width / image.height) if transform.keep_aspect else transform.resize_px
        image = image.resize((width, transform.resize_px), FILTERS[transform.interpolation])
    if transform.crop_px is not None:
        left, top = (round((side - transform.crop_px) / 2) for side in image.size)
        image = image.crop((left, top, left + transform.crop_px, top + transform.crop_px))
    pixels = np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 255
    if transform.mean is None or transform.std is None:
        return pixels
    mean, std = (np.array(values)[:, None, None] for values in (transform.mean, transform.std))
    return np.asarray((pixels - mean) / std)


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (224, 224), (301, 256)])
@pytest.mark.parametrize("name", NAMES)
def test_against_pil(name: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    transform = SPECS[name].transform
    got = build_transform(transform)(image)
    assert got.dtype is torch.float32
    np.testing.assert_allclose(got.numpy(), _by_hand(transform, image), atol=1e-5)


def test_openmidnight_stretches() -> None:
    assert build_transform(SPECS["openmidnight"].transform)(Image.new("RGB", (301, 256))).shape == (3, 224, 224)
    assert build_transform(SPECS["phikon"].transform)(Image.new("RGB", (301, 256))).shape == (3, 224, 263)


@pytest.mark.parametrize(("name", "resized_px"), [("lunit-vits8", 248), ("gigapath", 256), ("uni_v1", 224)])
def test_a_custom_size_loses_no_margin(name: str, resized_px: int) -> None:
    transform = SPECS[name].transform
    assert (transform.resize_px, transform.crop_px) == (resized_px, 224)
    assert transform.at_size(448) == TransformSpec(448, 448, transform.interpolation, transform.mean, transform.std)


def test_a_custom_size_crops_only_what_was_cropped() -> None:
    transform = SPECS["virchow"].transform
    assert transform.crop_px is None
    assert transform.at_size(448) == TransformSpec(448, None, "bicubic", transform.mean, transform.std)
