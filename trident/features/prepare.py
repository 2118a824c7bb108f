"""A patch's way from pixels to the network's input, split so that the costly end is done for a whole batch at once.

Imports torch: import this module lazily.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trident.encoders.patch.transforms import Transform
from trident.slides.base import RGBImage

Geometry = list[Callable[[Image.Image], Any]]


class PatchPreparer:
    """An encoder's transform in two steps: `prepare` one patch in a reader's thread, `finish` a batch on the device.

    Where the transform is torchvision's Compose and ends in ToTensor, or in ToTensor and Normalize, what comes before
    (resize, crop: PIL) is the first step, and a patch travels as bytes: a quarter of the size, and no torch in the
    threads. The second step is then the same arithmetic as those two classes do. Any other transform runs whole in
    the first step.
    """

    def __init__(self, transform: Transform, sample: RGBImage) -> None:
        """Split `transform`; `sample` is a patch of the slide, by which the split is tried out."""
        self._transform = transform
        self._geometry, self._mean, self._std = _split(transform)
        if self._geometry is not None:
            tried = self._apply_geometry(sample)
            if not isinstance(tried, Image.Image) or tried.mode != "RGB":
                self._geometry = None

    def prepare(self, patch: RGBImage) -> NDArray[np.uint8] | NDArray[np.float32]:
        """uint8 (H, W, 3) still to be normalised, or float32 (3, H, W); always the same of the two."""
        if self._geometry is not None:
            return np.asarray(self._apply_geometry(patch))
        transformed: NDArray[np.float32] = self._transform(Image.fromarray(patch)).to(torch.float32).numpy()
        return transformed

    def finish(self, batch: Tensor) -> Tensor:
        """Prepared patches on the device -> the network's input, float32 (B, 3, H, W)."""
        if self._geometry is None:
            return batch
        scaled = batch.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
        if self._mean is None or self._std is None:
            return scaled
        shape = (1, 3, 1, 1)
        return scaled.sub_(self._mean.to(batch.device).view(shape)).div_(self._std.to(batch.device).view(shape))

    def _apply_geometry(self, patch: RGBImage) -> Any:
        image: Any = Image.fromarray(patch)
        for step in self._geometry or ():
            image = step(image)
        return image


def _split(transform: Transform) -> tuple[Geometry | None, Tensor | None, Tensor | None]:
    """(steps before ToTensor, mean, std); None for the steps where the transform cannot be split."""
    from torchvision import transforms

    if not isinstance(transform, transforms.Compose):
        return None, None, None
    steps = list(transform.transforms)
    mean = std = None
    # Exactly these classes: a subclass may do something else.
    if steps and type(steps[-1]) is transforms.Normalize:
        normalise = steps.pop()
        mean, std = (torch.as_tensor(values, dtype=torch.float32) for values in (normalise.mean, normalise.std))
        if mean.numel() != 3 or std.numel() != 3:
            return None, None, None
    if not steps or type(steps.pop()) is not transforms.ToTensor:
        return None, None, None
    return steps, mean, std
