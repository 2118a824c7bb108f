"""Resize, crop and normalise whole batches of patches, on a CPU or a GPU. Imports torch: import this module lazily.

Batches of pixels are uint8 (B, H, W, 3). Resizing is PIL's at a fraction of its time: within one grey level of
`Image.resize` where one side is a multiple of the other; elsewhere a few values of a million are two levels off.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

Mode = Literal["bilinear", "bicubic"]

_PATCHES_AT_ONCE = 16
"""Patches resized together on a GPU, where they are held as float32."""


def resize(pixels: Tensor, height_px: int, width_px: int, mode: Mode) -> Tensor:
    """Resize a batch as PIL does, antialiased: uint8 (B, H, W, 3) -> uint8 (B, height_px, width_px, 3)."""
    if pixels.shape[1:3] == (height_px, width_px):
        return pixels
    planes = pixels.contiguous().permute(0, 3, 1, 2)
    if pixels.device.type == "cpu":
        resized = functional.interpolate(planes, (height_px, width_px), mode=mode, antialias=True)
    else:
        parts = [_resize_in_float(part, height_px, width_px, mode) for part in planes.split(_PATCHES_AT_ONCE)]  # type: ignore[no-untyped-call]
        resized = torch.cat(parts)
    return resized.permute(0, 2, 3, 1)


def resize_with_pil(pixels: Tensor, height_px: int, width_px: int) -> Tensor:
    """`resize`, bicubic, by PIL itself, patch by patch; for a CPU."""
    images = (Image.fromarray(patch) for patch in pixels.numpy())
    resized = [np.asarray(image.resize((width_px, height_px), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(resized))


def _resize_in_float(planes: Tensor, height_px: int, width_px: int, mode: Mode) -> Tensor:
    """The same where torch has no such kernel for bytes; PIL, too, rounds between the two directions."""
    resized = planes.to(torch.float32)
    for size in ((planes.shape[2], width_px), (height_px, width_px)):
        if resized.shape[2:] != size:
            resized = functional.interpolate(resized, size, mode=mode, antialias=True).add_(0.5).floor_().clamp_(0, 255)
    return resized.to(torch.uint8)


def crop_centre(pixels: Tensor, height_px: int, width_px: int) -> Tensor:
    """The middle of each image, where torchvision's `CenterCrop` cuts it out; not larger than the image."""
    top = round((pixels.shape[1] - height_px) / 2.0)
    left = round((pixels.shape[2] - width_px) / 2.0)
    return pixels[:, top : top + height_px, left : left + width_px]


def normalise(pixels: Tensor, mean: Tensor | None, std: Tensor | None, out: Tensor | None = None) -> Tensor:
    """What torchvision's `ToTensor` and `Normalize` give, bit for bit: float32 (B, 3, H, W), contiguous.

    Args:
        pixels: uint8 (B, H, W, 3).
        mean: (3,), None where nothing is subtracted and divided.
        std: (3,).
        out: where the result goes on a CPU, float32 (B, 3, H, W); a new tensor by default.
    """
    if pixels.device.type != "cpu":
        return _normalised(pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous(), mean, std)
    shape = (pixels.shape[0], 3, *pixels.shape[1:3])
    batch = torch.empty(shape, dtype=torch.float32) if out is None else out
    # A byte has 256 values: looking the result up passes over the memory once, the arithmetic would four times.
    grey_levels = torch.arange(256, dtype=torch.float32).expand(1, 3, 1, 256).contiguous()
    tables = _normalised(grey_levels, mean, std).numpy()[0]
    planes = list(np.empty(shape[1:], dtype=np.uint8))
    for patch, floats in zip(pixels.contiguous().numpy(), batch.numpy(), strict=True):
        cv2.split(patch, planes)
        for plane, table, result in zip(planes, tables, floats, strict=True):
            cv2.LUT(plane, table, dst=result)
    return batch


def _normalised(scaled: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """In place, (B, 3, H, W)."""
    scaled.div_(255)
    if mean is None or std is None:
        return scaled
    mean, std = (values.to(scaled.device).view(3, 1, 1) for values in (mean, std))
    return scaled.sub_(mean).div_(std)
