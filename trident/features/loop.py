"""The streaming loop of one slide: read -> transform -> encode -> hand on. Imports torch: import this module lazily.

Threads of this process read ahead while the device works, a GPU works on one batch while the next is gathered, and the
features leave in the order of the coordinates whatever the threads' timing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trident.encoders.patch.base import PatchEncoder
from trident.errors import SettingsError, WeightsError
from trident.features.batch_encoder import BatchEncoder
from trident.features.patch_batches import Batch, PatchBatches, ReadPatch
from trident.features.threads import default_workers
from trident.patching.reader import PatchReader

Sink = Callable[[NDArray[np.float32]], None]
"""Takes the features (b, D) of the next b patches."""
Progress = Callable[[int, int], None]
"""Takes the number of patches done, and of all."""


@dataclass(frozen=True)
class PhaseSeconds:
    """Where the time went. `read` and `transform` are summed over the threads; the others are the loop's own."""

    read: float = 0.0
    transform: float = 0.0
    encode: float = 0.0
    """Starting the device and waiting for it."""
    write: float = 0.0
    """In the sink."""
    wait: float = 0.0
    """Waiting for the reading threads: large where reading is the bottleneck."""


@dataclass(frozen=True)
class FeatureReport:
    """What happened to one slide's patches."""

    n_patches: int
    unreadable: list[int]
    """Indices of patches that did not decode, and were encoded as black."""
    seconds: PhaseSeconds
    batch_size: int
    """Patches encoded at once; smaller than asked for where the device's memory ran out."""


def extract_features(
    read: ReadPatch | PatchReader,
    coords: NDArray[np.int64],
    encoder: PatchEncoder,
    *,
    device: torch.device | str,
    batch_size: int,
    workers: int | None,
    sink: Sink,
    on_progress: Progress | None = None,
    max_unreadable_share: float = 0.01,
) -> FeatureReport:
    """Encode every patch of a slide, and hand the features on batch by batch, in order.

    Args:
        read: the slide's `PatchReader` or its `read`, and neighbouring patches are read together, which is several
            times faster; or any other function (x, y) in level-0 pixels -> the patch, uint8 (H, W, 3). Called from
            several threads at once.
        coords: int (N, 2), x and y of each patch's corner in level-0 pixels; N may be 0, then `sink` is never called.
        encoder: moved to `device`, and left there. On a CPU it is called from several threads at once, unless
            `workers` is 0.
        device: "cpu", "cuda", "cuda:1".
        batch_size: patches encoded at once.
        workers: reading threads; None for one a processor (16 at most), 0 to read in this thread.
        sink: takes float32 (b, D) arrays that it may keep.
        on_progress: called after each batch.
        max_unreadable_share: share of patches, 0 to 1, that may fail to decode.

    Raises:
        UnreadableSlideError: more patches than that share do not decode.
        SettingsError: impossible arguments, or an encoder whose transform or output has the wrong shape.
        WeightsError: the encoder gave NaN or infinity.
        TridentError: not even one patch fits into the device's memory.
    """
    coords = np.asarray(coords)
    _check(coords, batch_size, workers)
    torch_device = torch.device(device)
    n_workers = default_workers() if workers is None else workers
    n_patches = len(coords)
    batches = PatchBatches(
        read,
        coords,
        encoder.eval_transforms,
        batch_size=batch_size,
        workers=min(n_workers, n_patches),
        pinned=torch_device.type == "cuda",
        on_device=torch_device.type == "cuda",
        max_unreadable_share=max_unreadable_share,
    )
    # Beside readers, a CPU encodes in single-core threads; a GPU, or a lone thread, as torch does by itself.
    threads = torch.get_num_threads() if torch_device.type == "cpu" and n_workers else 1
    with batches, BatchEncoder(encoder, torch_device, batches.finish, threads=threads) as batch_encoder:
        output = _Output(batch_encoder, batches, coords=coords, sink=sink, on_progress=on_progress)
        for batch in batches:
            output.start(batch)
        output.finish()
    return FeatureReport(
        n_patches,
        batches.unreadable,
        PhaseSeconds(batches.read_s, batches.transform_s, output.encode_s, output.write_s, batches.wait_s),
        min(batch_size, batch_encoder.largest or batch_size),
    )


class _Output:
    """One batch on the device at a time more than is waited for: the next is queued before the last is collected."""

    def __init__(
        self,
        batch_encoder: BatchEncoder,
        batches: PatchBatches,
        *,
        coords: NDArray[np.int64],
        sink: Sink,
        on_progress: Progress | None,
    ) -> None:
        self._batch_encoder = batch_encoder
        self._batches = batches
        self._coords = coords
        self._sink = sink
        self._on_progress = on_progress
        self._under_way: tuple[Batch, list[Tensor]] | None = None
        self.encode_s = 0.0
        self.write_s = 0.0

    def start(self, batch: Batch) -> None:
        """Queue a batch, and hand on the one before."""
        began = time.perf_counter()
        parts = self._batch_encoder.start(batch.pixels)
        self.encode_s += time.perf_counter() - began
        self.finish()
        self._under_way = batch, parts

    def finish(self) -> None:
        """Hand on the batch that is under way, if any."""
        if self._under_way is None:
            return
        batch, parts = self._under_way
        self._under_way = None
        began = time.perf_counter()
        features = self._batch_encoder.collect(parts)
        self.encode_s += time.perf_counter() - began
        _check_finite(features, self._batch_encoder.encoder, self._coords[batch.start :])
        self._batches.release(batch)
        began = time.perf_counter()
        self._sink(features)
        self.write_s += time.perf_counter() - began
        if self._on_progress is not None:
            self._on_progress(batch.start + len(features), len(self._coords))


def _check(coords: NDArray[np.int64], batch_size: int, workers: int | None) -> None:
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise SettingsError(f"patch coordinates have shape {coords.shape}; expected (patches, 2)")
    if batch_size < 1:
        raise SettingsError(f"batch size {batch_size} is not at least 1; set --feat_batch_size or --batch_size")
    if workers is not None and workers < 0:
        raise SettingsError(f"the number of workers {workers} is below 0; set --max_workers to 0 or more")


def _check_finite(features: NDArray[np.float32], encoder: PatchEncoder, coords: NDArray[np.int64]) -> None:
    """`coords` begin with those of the batch."""
    good: NDArray[np.bool_] = np.isfinite(features).min(axis=1)
    if not good.all():
        x, y = (int(value) for value in coords[int(np.argmin(good))])
        raise WeightsError(
            f"encoder {encoder.enc_name} gave NaN or infinity for {int((~good).sum())} of {len(good)} patches, first "
            f"for the one at ({x}, {y}); its weights are damaged, or its precision {encoder.precision} is too small"
        )
