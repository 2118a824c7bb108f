"""One region, prepared for each of several encoders. Imports torch: import this module lazily."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trident.encoders.patch.transforms import Transform, sample_pixels
from trident.features.prepare import PatchPreparer

Rows = NDArray[np.uint8] | NDArray[np.float32]
"""Prepared patches, (n, ...)."""

_NO_SLOT = -1


def _unprepared(batch: Tensor) -> Tensor:
    raise AssertionError("the transform of this encoder has failed")


class Preparations:
    """What has to be made of a region for several encoders; those that want the same share it.

    A transform that fails on a region of noise costs its own encoder only.

    Args:
        transforms: one an encoder, PIL RGB image -> float32 tensor (3, H, W).
        region_shape: (height, width) of what is read.
        patch_size_px: see `PatchPreparer`.
        on_device: see `PatchPreparer`.
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        region_shape: tuple[int, int],
        *,
        patch_size_px: int | None = None,
        on_device: bool = False,
    ) -> None:
        self.slots: list[int] = []
        """For each encoder, which of the distinct preparations is its own; -1 where its transform fails."""
        self.failures: dict[int, Exception] = {}
        """What went wrong with the transform of an encoder."""
        self.distinct: list[PatchPreparer] = []
        self._preparers: list[PatchPreparer] = []
        self.finish: list[Callable[[Tensor], Tensor]] = []
        """For each encoder, prepared patches on the device -> its network's input."""
        self.sample: list[Rows] = []
        """What becomes of a region of noise, by slot: as all patches, in shape and type."""
        self._region_shape = region_shape
        sample = sample_pixels(*region_shape)[np.newaxis]
        known: dict[object, int] = {}
        for number, transform in enumerate(transforms):
            try:
                preparer = PatchPreparer(transform, region_shape, patch_size_px=patch_size_px, on_device=on_device)
                key = preparer.signature if preparer.signature is not None else len(self.distinct)
                if key not in known:
                    self.sample.append(preparer.prepare(sample)[0])
                    known[key] = len(self.distinct)
                    self.distinct.append(preparer)
            except Exception as error:  # noqa: BLE001 - a user's own function: kept, and told as its encoder's outcome
                self.failures[number] = error
                self.slots.append(_NO_SLOT)
                self.finish.append(_unprepared)
                continue
            self.slots.append(known[key])
            self._preparers.append(preparer)
            self.finish.append(preparer.finish)
        keep = [slot for slot, preparer in enumerate(self.distinct) if preparer.keeps_regions]
        self.direct: int | None = keep[0] if keep else None
        """A slot that takes regions as they are: they may be read straight into its rows."""

    def black(self, slot: int) -> Rows:
        """What becomes of a black region: (1, ...). Whatever the transform raises on it is passed on."""
        return self.distinct[slot].prepare(np.zeros((1, *self._region_shape, 3), dtype=np.uint8))

    def release_memory(self) -> None:
        """See `PatchPreparer.release_memory`."""
        for preparer in self._preparers:
            preparer.release_memory()
