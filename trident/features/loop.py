"""The streaming loop of one slide: read -> transform -> encode -> hand on. Imports torch: import this module lazily.

Threads of this process read ahead while the device works, a GPU works on one batch while the next is gathered, and the
features leave in the order of the coordinates whatever the threads' timing. Several encoders may share one pass: each
patch is read once, and every encoder gets from it what it would get alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from trident.encoders.patch.base import PatchEncoder
from trident.errors import SettingsError
from trident.features.batch_encoder import BatchEncoder
from trident.features.encoder_output import EncoderOutput, EncoderTarget, Sink
from trident.features.patch_batches import Batch, PatchBatches, ReadPatch
from trident.features.precision import AUTO
from trident.features.report import FeatureReport, PhaseSeconds
from trident.features.threads import default_workers
from trident.patching.reader import PatchReader

Progress = Callable[[int, int], None]
"""Takes the number of patches done, and of all."""


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
    precision: str = AUTO,
) -> FeatureReport:
    """Encode every patch of a slide, and hand the features on batch by batch, in order.

    Args:
        read: the slide's `PatchReader` or its `read`, and neighbouring patches are read together, which is several
            times faster; or any other function (x, y) in level-0 pixels -> the patch, uint8 (H, W, 3). Called from
            several threads at once.
        coords: int (N, 2), x and y of each patch's corner in level-0 pixels; N may be 0, then `sink` is never called.
        encoder: moved to `device`, and left there. On a CPU one that is `reentrant` is called from several threads at
            once, unless `workers` is 0.
        device: "cpu", "cuda", "cuda:1".
        batch_size: patches encoded at once.
        workers: reading threads; None for one a processor (16 at most), 0 to read in this thread.
        sink: takes float32 (b, D) arrays that it may keep.
        on_progress: called after each batch.
        max_unreadable_share: share of patches, 0 to 1, that may fail to decode.
        precision: see `used_precision`.

    Raises:
        UnreadableSlideError: more patches than that share do not decode.
        SettingsError: impossible arguments, or an encoder whose transform or output has the wrong shape.
        WeightsError: the encoder gave NaN or infinity.
        TridentError: not even one patch fits into the device's memory.
    """
    [outcome] = extract_with_several(
        read,
        coords,
        [EncoderTarget(encoder, sink, precision)],
        device=device,
        batch_size=batch_size,
        workers=workers,
        on_progress=on_progress,
        max_unreadable_share=max_unreadable_share,
    )
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def extract_with_several(
    read: ReadPatch | PatchReader,
    coords: NDArray[np.int64],
    targets: Sequence[EncoderTarget],
    *,
    device: torch.device | str,
    batch_size: int,
    workers: int | None,
    on_progress: Progress | None = None,
    max_unreadable_share: float = 0.01,
) -> list[FeatureReport | Exception]:
    """`extract_features` with several encoders in one pass: each patch is read once, and encoded by all.

    Args:
        read: as for `extract_features`, and so are those that follow.
        coords: int (N, 2).
        targets: encoders and their sinks; at least one.
        device: "cpu", "cuda", "cuda:1".
        batch_size: patches encoded at once.
        workers: reading threads.
        on_progress: called after each batch that all encoders have done.
        max_unreadable_share: share of patches, 0 to 1.

    Returns:
        One outcome a target: its report, or what went wrong with its transform, its encoder or its sink, which does not
        stop the others.

    Raises:
        UnreadableSlideError, SettingsError: what concerns all of them, as `extract_features`.
    """
    coords = np.asarray(coords)
    _check(coords, batch_size, workers)
    torch_device = torch.device(device)
    on_gpu = torch_device.type == "cuda"
    n_workers = default_workers() if workers is None else workers
    batches = PatchBatches(
        read,
        coords,
        [target.encoder.eval_transforms for target in targets],
        batch_size=batch_size,
        workers=min(n_workers, len(coords)),
        pinned=on_gpu,
        on_device=on_gpu,
        max_unreadable_share=max_unreadable_share,
    )
    # Beside readers, a CPU encodes in single-core threads; a GPU, or a lone thread, as torch does by itself.
    threads = torch.get_num_threads() if torch_device.type == "cpu" and n_workers else 1
    with ExitStack() as stack:
        stack.enter_context(batches)

        def begin(number: int) -> BatchEncoder:
            target = targets[number]
            finish = _finisher(batches, number)
            return stack.enter_context(
                BatchEncoder(target.encoder, torch_device, finish, threads=threads, precision=target.precision)
            )

        outputs = [EncoderOutput(partial(begin, number), target.sink, coords) for number, target in enumerate(targets)]
        _run(batches, outputs, len(coords), on_progress)
    return [_outcome(output, outputs, batches, len(coords), batch_size) for output in outputs]


def _run(batches: PatchBatches, outputs: list[EncoderOutput], total: int, on_progress: Progress | None) -> None:
    """All batches through all encoders; on a device one batch more than is waited for: it is queued before that."""
    previous: Batch | None = None

    def hand_on(next_batch: Batch | None) -> None:
        """Queue the next batch, then hand on the previous one."""
        for number, output in enumerate(outputs):
            before = output.take()
            if next_batch is not None:
                output.start(next_batch.start, batches.pixels(next_batch, number))
            output.finish(before)
        if previous is not None:
            batches.release(previous)
            if on_progress is not None and not all(output.failure for output in outputs):
                on_progress(previous.start + len(previous), total)

    def look_at_transforms() -> None:
        for number, output in enumerate(outputs):
            output.fail(batches.failure(number))

    if all(output.failure for output in outputs):
        return
    for batch in batches:
        look_at_transforms()
        hand_on(batch)
        previous = batch
        if all(output.failure for output in outputs):
            return
    look_at_transforms()
    hand_on(None)


def _finisher(batches: PatchBatches, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda pixels: batches.finish(pixels, number)


def _outcome(
    output: EncoderOutput, outputs: list[EncoderOutput], batches: PatchBatches, n_patches: int, batch_size: int
) -> FeatureReport | Exception:
    if output.failure is not None:
        return output.failure
    others = sum(other.encode_s + other.write_s for other in outputs if other is not output)
    seconds = PhaseSeconds(
        read=batches.read_s,
        decode=batches.decode_s,
        transform=batches.transform_s,
        encode=output.encode_s,
        write=output.write_s,
        wait=batches.wait_s,
        others=others,
    )
    largest = output.batch_encoder.largest or batch_size
    return FeatureReport(n_patches, list(batches.unreadable), seconds, min(batch_size, largest))


def _check(coords: NDArray[np.int64], batch_size: int, workers: int | None) -> None:
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise SettingsError(f"patch coordinates have shape {coords.shape}; expected (patches, 2)")
    if batch_size < 1:
        raise SettingsError(f"batch size {batch_size} is not at least 1; set --feat_batch_size or --batch_size")
    if workers is not None and workers < 0:
        raise SettingsError(f"the number of workers {workers} is below 0; set --max_workers to 0 or more")
