"""The way from a slide's regions to the network's input, split between reading threads and the device.

Imports torch: import this module lazily.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from trident.encoders.patch.transforms import Transform, sample_pixels
from trident.features.buffers import batch_buffers
from trident.features.pixels import crop_centre, normalise, resize, resize_with_pil

Pixels = NDArray[np.uint8]
PixelStep = partial[Tensor]
"""A function with its settings; uint8 (B, H, W, 3) -> uint8 (B, H', W', 3)."""

_LEVELS = 10
"""How deep in a transform a network is looked for: a Compose in a Compose takes two levels for each."""
_COPIED_AS_THEMSELVES = (
    type,
    ModuleType,
    FunctionType,
    BuiltinFunctionType,
    str,
    bytes,
    int,
    float,
    np.ndarray,
    Tensor,
)
"""What `copy.deepcopy` does not look into, or what holds numbers only."""


class PatchPreparer:
    """Resizes regions to patches and applies an encoder's transform.

    `prepare` works in a reading thread, `finish` on the device. Where the transform is torchvision's Compose of Resize
    (bilinear or bicubic, aspect kept), CenterCrop, ToTensor and Normalize, or of some of these in this order, it runs
    for many patches at once, and what travels between the two steps are bytes. Resizing is then that of
    `pixels.resize`; the rest is the same to the bit. Where only the end is ToTensor (and Normalize), the steps before
    it run on PIL images in the threads. Any other transform runs there whole. What runs there is copied for each
    thread, so that it may keep what it likes in its attributes.

    Args:
        transform: PIL RGB image -> float32 tensor (3, H, W).
        region_shape: (height, width) of what is read.
        patch_size_px: side to which a region is resized first; None where it is a patch already.
        on_device: whether resizing and cropping, too, are left to `finish`, if they can be.
    """

    def __init__(
        self,
        transform: Transform,
        region_shape: tuple[int, int],
        *,
        patch_size_px: int | None = None,
        on_device: bool = False,
    ) -> None:
        self._buffers = threading.local()
        self._floats: list[Tensor] = []
        self._to_patch: list[PixelStep] = []
        patch_shape = region_shape
        if patch_size_px is not None and region_shape != (patch_size_px, patch_size_px):
            patch_shape = (patch_size_px, patch_size_px)
            if _is_multiple(region_shape, patch_size_px):
                self._to_patch = [partial(resize, height_px=patch_size_px, width_px=patch_size_px, mode="bicubic")]
            else:  # a patch's pixels are promised to one grey level
                self._to_patch = [partial(resize_with_pil, height_px=patch_size_px, width_px=patch_size_px)]
                on_device = False
        from torchvision import transforms

        images, self._mean, self._std = _split(transform)
        steps = None if images is None else _pixel_steps(images, patch_shape)
        self._to_rgb: _PerThread | None = None
        self._whole: _PerThread | None = None
        if steps is None:
            if images is not None:
                self._to_rgb = _PerThread(transforms.Compose(images))
            if self._to_rgb is None or not _gives_rgb(self._to_rgb, patch_shape):
                self._to_rgb, self._whole = None, _PerThread(transform)
        self._early = self._to_patch + (steps or [])
        self._late: list[PixelStep] = []
        if on_device and steps is not None:
            self._early, self._late = [], self._early
        self.keeps_regions = not self._early and steps is not None
        """Whether `prepare` gives back what it gets, so that regions may be read straight into a batch."""
        self.signature = (
            None if steps is None else tuple((step.func, *sorted(step.keywords.items())) for step in self._early)
        )
        """Two preparers with one signature `prepare` alike; None where that cannot be told."""

    def prepare(self, regions: Pixels) -> Pixels | NDArray[np.float32]:
        """Regions (n, H, W, 3) -> uint8 (n, H', W', 3), or float32 (n, 3, H', W'); always the same of the two."""
        patches = torch.from_numpy(regions)
        for step in self._early:
            patches = step(patches)
        pixels: Pixels = patches.numpy()
        if self._whole is not None:
            tensors = [self._whole(Image.fromarray(patch)) for patch in pixels]
            return np.stack([tensor.to(torch.float32).numpy() for tensor in tensors])
        if self._to_rgb is not None:
            return np.stack([np.asarray(self._to_rgb(Image.fromarray(patch))) for patch in pixels])
        return pixels

    def finish(self, batch: Tensor) -> Tensor:
        """Prepared patches on the device -> the network's input, float32 (B, 3, H, W).

        On a CPU it may lie in memory that the next call from the same thread uses again.
        """
        if self._whole is not None:
            return batch
        for step in self._late:
            batch = step(batch)
        return normalise(batch, self._mean, self._std, self._buffer(batch) if batch.device.type == "cpu" else None)

    def _buffer(self, batch: Tensor) -> Tensor:
        """Floats for a batch, this thread's own: new memory each time would cost more than the arithmetic."""
        count, height_px, width_px = batch.shape[:3]
        buffer: Tensor | None = getattr(self._buffers, "floats", None)
        if buffer is None or len(buffer) < count or buffer.shape[2:] != (height_px, width_px):
            buffer = self._buffers.floats = batch_buffers.take((count, 3, height_px, width_px), torch.float32)
            self._floats.append(buffer)
        return buffer[:count]

    def release_memory(self) -> None:
        """Let others use the memory of what `finish` gave on a CPU; call it when all threads are done with that."""
        self._buffers = threading.local()
        batch_buffers.give_back(self._floats)
        self._floats = []


class _PerThread:
    """A function of the user's own on images, copied for each thread that calls it: as in the workers of a DataLoader.

    What cannot be copied, or holds a network, which is large, is called by one thread at a time; a plain function is
    the same for all.
    """

    def __init__(self, function: Callable[[Image.Image], Any]) -> None:
        self._function = function
        self._is_shared = _holds_network(function)
        self._own = threading.local()
        self._turn = threading.Lock()

    def __call__(self, image: Image.Image) -> Any:
        own = getattr(self._own, "function", None)
        if own is None:
            own = self._own.function = self._copied()
        return own(image)

    def _copied(self) -> Callable[[Image.Image], Any]:
        if self._is_shared:
            return self._in_turn
        try:
            return copy.deepcopy(self._function)
        except Exception:  # noqa: BLE001 - whatever it holds; the original does as well
            return self._in_turn

    def _in_turn(self, image: Image.Image) -> Any:
        with self._turn:
            return self._function(image)


def _holds_network(function: object) -> bool:
    """Whether a copy of a transform would copy weights: they are its own, or of something that it holds."""
    seen: dict[int, object] = {}  # kept, so that no other object gets the number of one
    level = [function]
    for _ in range(_LEVELS):
        following: list[object] = []
        for held in level:
            if id(held) in seen or isinstance(held, _COPIED_AS_THEMSELVES):
                continue
            seen[id(held)] = held
            if isinstance(held, nn.Module) and next(held.parameters(), None) is not None:
                return True
            following += _parts(held)
        level = following
    return False


def _parts(held: object) -> Iterable[object]:
    """What an object holds, as far as Python tells without running code of the object's own."""
    if isinstance(held, dict):
        return held.values()
    if isinstance(held, (list, tuple, set, frozenset)):
        return held
    parts = list(getattr(held, "__dict__", {}).values())
    if isinstance(held, partial):
        parts += [held.func, held.args, held.keywords]
    elif isinstance(held, MethodType):
        parts.append(held.__self__)
    return parts


def _split(transform: Transform) -> tuple[list[Any] | None, Tensor | None, Tensor | None]:
    """(steps before ToTensor, mean, std); None for the steps where the transform cannot be split."""
    from torchvision import transforms

    if not isinstance(transform, transforms.Compose):
        return None, None, None
    steps = list(transform.transforms)
    mean = std = None
    # Exactly these classes: a subclass may do something else.
    if steps and type(steps[-1]) is transforms.Normalize:
        last = steps.pop()
        mean, std = (torch.as_tensor(values, dtype=torch.float32) for values in (last.mean, last.std))
        if mean.numel() != 3 or std.numel() != 3:
            return None, None, None
    if not steps or type(steps.pop()) is not transforms.ToTensor:
        return None, None, None
    return steps, mean, std


def _is_multiple(region_shape: tuple[int, int], patch_size_px: int) -> bool:
    return all(max(side_px, patch_size_px) % min(side_px, patch_size_px) == 0 for side_px in region_shape)


def _pixel_steps(steps: list[Any], shape: tuple[int, int]) -> list[PixelStep] | None:
    """The same steps for a batch of pixels of this (height, width), or None where one is not known here."""
    from torchvision import transforms

    known: list[PixelStep] = []
    for step in steps:
        if type(step) is transforms.Resize:
            mode = step.interpolation.value
            resized = _resized_shape(step.size, shape)
            stretches = abs(resized[0] * shape[1] - resized[1] * shape[0]) > max(*shape, *resized)
            if step.max_size is not None or mode not in ("bilinear", "bicubic") or stretches:
                return None
            shape = resized
            known.append(partial(resize, height_px=shape[0], width_px=shape[1], mode=mode))
        elif type(step) is transforms.CenterCrop:
            height_px, width_px = step.size
            if height_px > shape[0] or width_px > shape[1]:  # torchvision pads
                return None
            shape = (height_px, width_px)
            known.append(partial(crop_centre, height_px=height_px, width_px=width_px))
        else:
            return None
    return known


def _resized_shape(size: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that torchvision's Resize gives: two numbers stretch, one is for the shorter side."""
    sizes = [size] if isinstance(size, int) else list(size)
    if len(sizes) == 2:
        return int(sizes[0]), int(sizes[1])
    shorter = int(sizes[0])
    height_px, width_px = shape
    if height_px <= width_px:
        return shorter, int(shorter * width_px / height_px)
    return int(shorter * height_px / width_px), shorter


def _gives_rgb(function: _PerThread, shape: tuple[int, int]) -> bool:
    tried = function(Image.fromarray(sample_pixels(*shape)))
    return isinstance(tried, Image.Image) and tried.mode == "RGB"
