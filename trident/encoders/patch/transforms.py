"""From a declaration to torchvision's transform. Imports torchvision when called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trident.encoders.patch.spec import TransformSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

Transform = Callable[["Image"], "Tensor"]
"""PIL RGB image -> float32 tensor (3, H, W)."""


def sample_pixels(height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Pixels on which to try a transform, uint8 (H, W, 3): always the same noise.

    A stain normaliser, say, can do nothing with an image of one colour.
    """
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (64, min(width_px, 1000), 3), dtype=np.uint8)
    return np.resize(noise, (height_px, width_px, 3))


def build_transform(transform: TransformSpec) -> Transform:
    """The `torchvision.transforms.Compose` that a declaration describes, acting on a PIL image.

    Its last steps are `ToTensor` and, where there is a mean, `Normalize`: the feature loop relies on that order to do
    both for a whole batch at once.
    """
    from torchvision import transforms

    steps: list[Transform | Callable[[Image], Image]] = []
    if transform.resize_px is not None:
        interpolation = transforms.InterpolationMode(transform.interpolation)
        # One number resizes the shorter side and keeps the aspect; two stretch.
        size_px = transform.resize_px if transform.keep_aspect else (transform.resize_px, transform.resize_px)
        steps.append(transforms.Resize(size_px, interpolation=interpolation, antialias=True))
    if transform.crop_px is not None:
        steps.append(transforms.CenterCrop(transform.crop_px))
    steps.append(transforms.ToTensor())
    if transform.mean is not None and transform.std is not None:
        steps.append(transforms.Normalize(mean=transform.mean, std=transform.std))
    built: Transform = transforms.Compose(steps)
    return built
