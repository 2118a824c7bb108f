"""Patches of one slide as batches in order, read ahead by threads of this process. Imports torch: import it lazily."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trident.encoders.patch.transforms import Transform
from trident.errors import SettingsError, UnreadableSlideError
from trident.features.prepare import PatchPreparer
from trident.features.threads import single_core_threads
from trident.slides.base import RGBImage

ReadPatch = Callable[[int, int], RGBImage]
"""(x, y) of a patch's corner in level-0 pixels -> its pixels; called from several threads at once."""


@dataclass
class Batch:
    """Consecutive patches, prepared by `PatchPreparer.prepare`."""

    start: int
    """Index of the first patch."""
    pixels: Tensor
    """(B, ...), a window on a buffer that is used again once the batch is released."""
    buffer: Tensor
    jobs: list[Future[_Filled]]


@dataclass(frozen=True)
class _Filled:
    """What became of one patch."""

    index: int
    error: UnreadableSlideError | None
    read_s: float
    transform_s: float


class PatchBatches:
    """Reads and prepares every patch. Use it as a context manager: leaving it ends the threads, whatever happened.

    A patch that does not decode is black, and listed in `unreadable`.
    """

    def __init__(
        self,
        read: ReadPatch,
        coords: NDArray[np.int64],
        transform: Transform,
        *,
        batch_size: int,
        workers: int,
        pinned: bool,
        max_unreadable_share: float,
    ) -> None:
        self._read = read
        self._coords = coords
        self._transform = transform
        self._batch_size = min(batch_size, max(1, len(coords)))
        self._max_unreadable_share = max_unreadable_share
        self._pinned = pinned
        self._executor = single_core_threads(workers, "trident-read") if workers else None
        # Enough that no thread waits for the batch in front, and no more: a batch can be large.
        self._n_ahead = max(2, -(-2 * workers // self._batch_size)) if workers else 1
        self._free: list[Tensor] = []
        self.unreadable: list[int] = []
        self.read_s = 0.0
        self.transform_s = 0.0
        self.wait_s = 0.0

    def __enter__(self) -> PatchBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the order of the coordinates. Each must be given back with `release`.

        Raises:
            UnreadableSlideError: more patches than the allowed share do not decode.
            SettingsError: the transform gives patches of different sizes.
        """
        if not len(self._coords):
            return
        self._look_at_first_readable()
        ahead: deque[Batch] = deque()
        starts = iter(range(0, len(self._coords), self._batch_size))
        for start in starts:
            ahead.append(self._begin(start))
            if len(ahead) >= self._n_ahead:
                yield self._complete(ahead.popleft())
        while ahead:
            yield self._complete(ahead.popleft())

    def release(self, batch: Batch) -> None:
        """Allow the batch's buffer to be filled again."""
        self._free.append(batch.buffer)

    def finish(self, pixels: Tensor) -> Tensor:
        """See `PatchPreparer.finish`."""
        return self._preparer.finish(pixels)

    def _look_at_first_readable(self) -> None:
        """Learn from one patch what all of them look like; it is read again in its place."""
        failure: UnreadableSlideError | None = None
        for index, (x, y) in enumerate(self._coords):
            try:
                sample = self._read(int(x), int(y))
            except UnreadableSlideError as error:
                failure = error
                self.unreadable.append(index)
                self._check_unreadable(error)
                continue
            self._preparer = PatchPreparer(self._transform, sample)
            self._black = self._preparer.prepare(np.zeros_like(sample))
            self.unreadable.clear()  # they are met again, in order
            return
        if failure is not None:
            raise UnreadableSlideError(
                failure.path, f"not one of its {len(self._coords)} patches decodes; copy the file again"
            ) from failure

    def _begin(self, start: int) -> Batch:
        """Hand the patches from `start` on to the threads."""
        if not self._free:
            dtype = torch.uint8 if self._black.dtype == np.uint8 else torch.float32
            shape = (self._batch_size, *self._black.shape)
            self._free.append(torch.empty(shape, dtype=dtype, pin_memory=self._pinned))
        buffer = self._free.pop()
        pixels = buffer[: len(self._coords) - start]
        batch = Batch(start, pixels, buffer, [])
        if self._executor is not None:
            rows = pixels.numpy()
            batch.jobs = [
                self._executor.submit(self._fill, rows[row : row + 1], start + row) for row in range(len(pixels))
            ]
        return batch

    def _complete(self, batch: Batch) -> Batch:
        """Wait for the threads, or read here where there are none."""
        for row in range(len(batch.pixels)):
            if batch.jobs:
                since = time.perf_counter()
                filled = batch.jobs[row].result()
                self.wait_s += time.perf_counter() - since
            else:
                filled = self._fill(batch.pixels.numpy()[row : row + 1], batch.start + row)
            self.read_s += filled.read_s
            self.transform_s += filled.transform_s
            if filled.error is not None:
                self.unreadable.append(filled.index)
                self._check_unreadable(filled.error)
        batch.jobs = []
        return batch

    def _fill(self, row: NDArray[np.uint8] | NDArray[np.float32], index: int) -> _Filled:
        x, y = (int(value) for value in self._coords[index])
        began = time.perf_counter()
        try:
            patch = self._read(x, y)
        except UnreadableSlideError as error:
            row[0] = self._black
            return _Filled(index, error, time.perf_counter() - began, 0.0)
        read = time.perf_counter()
        prepared = self._preparer.prepare(patch)
        if prepared.shape != row.shape[1:]:  # said here: numpy would stretch some shapes silently
            raise SettingsError(
                f"the patch at ({x}, {y}) becomes {prepared.shape} where others become {row.shape[1:]}; "
                "the encoder's transforms must give all patches one size"
            )
        row[0] = prepared
        return _Filled(index, None, read - began, time.perf_counter() - read)

    def _check_unreadable(self, error: UnreadableSlideError) -> None:
        count, total = len(self.unreadable), len(self._coords)
        if count > self._max_unreadable_share * total:
            raise UnreadableSlideError(
                error.path,
                f"{count} of {total} patches do not decode, more than the allowed share of "
                f"{self._max_unreadable_share:.2%}; the file is probably damaged: copy it again (last one: {error})",
            ) from error
