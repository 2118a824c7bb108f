"""Patches of one slide as batches in order, read ahead by threads of this process. Imports torch: import it lazily."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trident.encoders.patch.transforms import Transform
from trident.errors import SettingsError, UnreadableSlideError
from trident.features.buffers import batch_buffers
from trident.features.preparations import Preparations, Rows
from trident.features.threads import single_core_threads
from trident.patching.reader import PatchReader, PatchRegions
from trident.slides.base import RGBImage

ReadPatch = Callable[[int, int], RGBImage]
"""(x, y) of a patch's corner in level-0 pixels -> its pixels; called from several threads at once."""

_MAX_JOB_PATCHES = 16
"""Most patches that a thread reads in one go."""
_SCRATCH_BYTES = 2 << 20
"""Regions that a thread reads before it resizes them: about as much as its core's own cache holds."""
_MAX_RAW_BATCH_BYTES = 128 << 20
"""Batches of regions larger than this are resized by the reading threads, also where the device would do it faster."""


@dataclass
class Batch:
    """Consecutive patches, prepared by `PatchPreparer.prepare` for each encoder."""

    start: int
    """Index of the first patch."""
    prepared: list[Tensor]
    """(B, ...) by slot of `Preparations`, windows on buffers that are used again once the batch is released."""
    buffers: list[Tensor]
    jobs: list[Future[_Filled]]

    def __len__(self) -> int:
        return len(self.prepared[0])


@dataclass
class _Filled:
    """What became of the patches of one job."""

    errors: list[tuple[int, UnreadableSlideError]] = field(default_factory=list)
    """(index, error) of each patch that does not decode."""
    pixels_s: float = 0.0
    transform_s: float = 0.0


class PatchBatches:
    """Reads and prepares every patch. Use it as a context manager: leaving it ends the threads, whatever happened.

    The memory of batches that were released is then used for the next slide, and so is what `finish` gave on a CPU.

    A patch that does not decode is black, and listed in `unreadable`. An encoder whose transform fails gets no more
    batches (`failure` says why), the others do; where none is left, the batches end.

    Args:
        read: the slide's `PatchReader`, or its `read`: then neighbouring patches are read together. Any other function
            is asked for one patch at a time.
        coords: int (N, 2), (x, y) of each patch's corner in level-0 pixels.
        transforms: one an encoder, PIL RGB image -> float32 tensor (3, H, W).
        batch_size: patches in a batch.
        workers: reading threads; 0 to read in the thread that iterates.
        pinned: whether batches lie in page-locked memory, for a GPU.
        max_unreadable_share: share of patches, 0 to 1, that may fail to decode.
        on_device: whether resizing is left to `finish`, which then runs where it is fast.
    """

    def __init__(
        self,
        read: ReadPatch | PatchReader,
        coords: NDArray[np.int64],
        transforms: Sequence[Transform],
        *,
        batch_size: int,
        workers: int,
        pinned: bool,
        max_unreadable_share: float,
        on_device: bool = False,
    ) -> None:
        reader = _reader_of(read)
        self._reader = reader
        self._read: ReadPatch = reader.read if reader is not None else read  # type: ignore[assignment]
        self._regions: PatchRegions | None = None
        self._preparations: Preparations | None = None
        self._on_device = on_device
        self._coords = coords
        self._transforms = transforms
        self._batch_size = min(batch_size, max(1, len(coords)))
        self._max_unreadable_share = max_unreadable_share
        self._pinned = pinned
        self._job_size = 1
        if reader is not None:
            self._job_size = min(_MAX_JOB_PATCHES, -(-self._batch_size // max(1, 2 * workers)))
        self._executor = single_core_threads(workers, "trident-read") if workers else None
        # Enough that no thread waits for the batch in front, and no more: a batch can be large.
        jobs = -(-self._batch_size // self._job_size)
        self._n_ahead = max(2, -(-2 * workers // jobs)) if workers else 1
        self._failures: dict[int, Exception] = {}  # by slot; written by the threads
        self._free: list[list[Tensor]] = []
        self._scratch = threading.local()
        self.unreadable: list[int] = []
        self._pixels_s = 0.0
        self.transform_s = 0.0
        self.wait_s = 0.0

    def __enter__(self) -> PatchBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        if not self._pinned:  # torch keeps page-locked memory by itself
            batch_buffers.give_back(buffer for buffers in self._free for buffer in buffers)
        self._free = []
        if self._preparations is not None:
            self._preparations.release_memory()

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the order of the coordinates. Each must be given back with `release`.

        Raises:
            UnreadableSlideError: more patches than the allowed share do not decode.
        """
        if not len(self._coords):
            return
        self._learn_shape()
        if self._is_in_vain():
            return
        ahead: deque[Batch] = deque()
        starts = iter(range(0, len(self._coords), self._batch_size))
        for start in starts:
            ahead.append(self._begin(start))
            if len(ahead) < self._n_ahead:
                continue
            batch = self._complete(ahead.popleft())
            if self._is_in_vain():
                return
            yield batch
        while ahead:
            batch = self._complete(ahead.popleft())
            if self._is_in_vain():
                return
            yield batch

    def release(self, batch: Batch) -> None:
        """Allow the batch's buffers to be filled again."""
        self._free.append(batch.buffers)

    @property
    def read_s(self) -> float:
        """Seconds, over all threads, of waiting for the file's bytes, where that can be told from decoding."""
        return 0.0 if self._regions is None else min(self._regions.read_s, self._pixels_s)

    @property
    def decode_s(self) -> float:
        """Seconds, over all threads, of decoding patches and putting them together; else of all that reading takes."""
        return self._pixels_s - self.read_s

    def pixels(self, batch: Batch, encoder: int = 0) -> Tensor:
        """The batch as it was prepared for an encoder, counted as its transform was given."""
        return batch.prepared[self._known.slots[encoder]]

    def failure(self, encoder: int = 0) -> Exception | None:
        """What went wrong with the transform of an encoder, in the batches that were given or are being read."""
        if self._preparations is None:
            return None
        of_transform = self._preparations.failures.get(encoder)
        return of_transform or self._failures.get(self._preparations.slots[encoder])

    def _is_in_vain(self) -> bool:
        """Whether no transform is left that works."""
        return len(self._failures) == len(self._known.distinct)

    @property
    def _known(self) -> Preparations:
        assert self._preparations is not None  # iterating begins with it
        return self._preparations

    def finish(self, pixels: Tensor, encoder: int = 0) -> Tensor:
        """See `PatchPreparer.finish`."""
        return self._known.finish[encoder](pixels)

    def _learn_shape(self) -> None:
        """Find out what all patches look like."""
        if self._reader is None:
            self._look_at_first_readable()
            return
        plan = self._reader.plan
        batch_bytes = self._batch_size * plan.read_px * plan.read_px * 3
        self._preparations = Preparations(
            self._transforms,
            (plan.read_px, plan.read_px),
            patch_size_px=plan.patch_size_px,
            on_device=self._on_device and batch_bytes <= _MAX_RAW_BATCH_BYTES,
        )
        began = time.perf_counter()
        self._regions = self._reader.announce(self._coords)
        self._pixels_s += time.perf_counter() - began

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
            self._preparations = Preparations(self._transforms, (sample.shape[0], sample.shape[1]))
            self.unreadable.clear()  # they are met again, in order
            return
        if failure is not None:
            raise self._none_decodes(failure) from failure

    def _none_decodes(self, failure: UnreadableSlideError) -> UnreadableSlideError:
        return UnreadableSlideError(
            failure.path, f"not one of its {len(self._coords)} patches decodes; copy the file again"
        )

    def _begin(self, start: int) -> Batch:
        """Hand the patches from `start` on to the threads."""
        buffers = self._free.pop() if self._free else [self._new_buffer(row) for row in self._known.sample]
        batch = Batch(start, [buffer[: len(self._coords) - start] for buffer in buffers], buffers, [])
        if self._executor is not None:
            batch.jobs = [
                self._executor.submit(self._fill, self._rows(batch, first), start + first)
                for first in range(0, len(batch), self._job_size)
            ]
        return batch

    def _new_buffer(self, row: Rows) -> Tensor:
        shape = (self._batch_size, *row.shape)
        dtype = torch.uint8 if row.dtype == np.uint8 else torch.float32
        return torch.empty(shape, dtype=dtype, pin_memory=True) if self._pinned else batch_buffers.take(shape, dtype)

    def _rows(self, batch: Batch, first: int) -> list[Rows]:
        """Of one job, by slot."""
        return [pixels.numpy()[first : first + self._job_size] for pixels in batch.prepared]

    def _complete(self, batch: Batch) -> Batch:
        """Wait for the threads, or read here where there are none."""
        since = time.perf_counter()
        for number in range(-(-len(batch) // self._job_size)):
            if batch.jobs:
                filled = batch.jobs[number].result()
            else:
                first = number * self._job_size
                filled = self._fill(self._rows(batch, first), batch.start + first)
            self._pixels_s += filled.pixels_s
            self.transform_s += filled.transform_s
            for index, error in filled.errors:
                self.unreadable.append(index)
                self._check_unreadable(error)
        batch.jobs = []
        self.wait_s += time.perf_counter() - since
        if len(self.unreadable) == len(self._coords):
            raise self._none_decodes(error) from error
        return batch

    def _fill(self, rows: list[Rows], start: int) -> _Filled:
        """Read and prepare the patches from `start` on into `rows`."""
        filled = _Filled()
        n_rows = len(rows[0])
        if self._regions is None:
            for row in range(n_rows):
                self._fill_one([part[row : row + 1] for part in rows], start + row, filled)
            return filled
        side_px = self._regions.plan.read_px
        is_direct = self._known.direct is not None
        at_once = n_rows if is_direct else max(1, _SCRATCH_BYTES // (side_px * side_px * 3))
        for first in range(0, n_rows, at_once):
            parts = [part[first : first + at_once] for part in rows]
            regions = self._regions_buffer(parts, side_px)
            began = time.perf_counter()
            failed = []
            for row in range(len(regions)):
                try:
                    self._regions.read_into(start + first + row, regions[row])
                except UnreadableSlideError as error:
                    failed.append(row)
                    filled.errors.append((start + first + row, error))
            read = time.perf_counter()
            self._prepare(regions, parts, start + first)
            for row in failed:
                self._blacken([part[row : row + 1] for part in parts])
            filled.pixels_s += read - began
            filled.transform_s += time.perf_counter() - read
        return filled

    def _fill_one(self, rows: list[Rows], index: int, filled: _Filled) -> None:
        """The same for one patch of a function."""
        x, y = (int(value) for value in self._coords[index])
        began = time.perf_counter()
        try:
            patch = self._read(x, y)
        except UnreadableSlideError as error:
            self._blacken(rows)
            filled.errors.append((index, error))
            filled.pixels_s += time.perf_counter() - began
            return
        read = time.perf_counter()
        self._prepare(np.array(patch[np.newaxis]), rows, index)
        filled.pixels_s += read - began
        filled.transform_s += time.perf_counter() - read

    def _prepare(self, regions: RGBImage, rows: list[Rows], start: int) -> None:
        """Regions (n, H, W, 3) -> the rows of each slot; nothing to do where they were read straight into them."""
        for slot, (part, sample) in enumerate(zip(rows, self._known.sample, strict=True)):
            if part is regions or slot in self._failures:
                continue
            try:
                prepared = self._known.distinct[slot].prepare(regions)
                self._check_shape(prepared.shape[1:], sample.shape, start)
            except Exception as error:  # noqa: BLE001 - a user's own function: kept, and told as its encoder's outcome
                self._failures.setdefault(slot, error)
            else:
                part[:] = prepared

    def _blacken(self, rows: list[Rows]) -> None:
        """Make the patches of `rows`, by slot, what becomes of a black region."""
        for slot, part in enumerate(rows):
            if slot in self._failures:
                continue
            try:
                part[:] = self._known.black(slot)
            except Exception as error:  # noqa: BLE001 - as above
                self._failures.setdefault(slot, error)

    def _regions_buffer(self, rows: list[Rows], side_px: int) -> RGBImage:
        """Where regions are read: straight into the batch, or a buffer of this thread's own."""
        if self._known.direct is not None:
            return rows[self._known.direct]  # type: ignore[return-value]
        buffer: RGBImage | None = getattr(self._scratch, "regions", None)
        if buffer is None or len(buffer) < len(rows[0]):
            buffer = self._scratch.regions = np.empty((len(rows[0]), side_px, side_px, 3), dtype=np.uint8)
        return buffer[: len(rows[0])]

    def _check_shape(self, shape: tuple[int, ...], usual: tuple[int, ...], index: int) -> None:
        if shape != usual:  # said here: numpy would stretch some shapes silently
            x, y = (int(value) for value in self._coords[index])
            raise SettingsError(
                f"the patch at ({x}, {y}) becomes {shape} where others become {usual}; "
                "the encoder's transforms must give all patches one size"
            )

    def _check_unreadable(self, error: UnreadableSlideError) -> None:
        count, total = len(self.unreadable), len(self._coords)
        if count > self._max_unreadable_share * total:
            raise UnreadableSlideError(
                error.path,
                f"{count} of {total} patches do not decode, more than the allowed share of "
                f"{self._max_unreadable_share:.2%}; the file is probably damaged: copy it again (last one: {error})",
            ) from error


def _reader_of(read: ReadPatch | PatchReader) -> PatchReader | None:
    """The slide's reader behind what was given, or None for a function."""
    owner = getattr(read, "__self__", read)
    # Exactly this class and method: a subclass may read otherwise.
    if type(owner) is PatchReader and (read is owner or getattr(read, "__func__", None) is PatchReader.read):
        return owner
    return None
