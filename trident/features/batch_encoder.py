"""One batch through an encoder: device, precision, and what to do when memory runs out. Imports torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trident.encoders.patch.base import PatchEncoder
from trident.errors import SettingsError, TridentError
from trident.features.precision import AUTO, autocast, used_precision
from trident.features.threads import single_core_threads

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""In what a RuntimeError says, where it is not torch's own class: CUDA, cuBLAS and cuDNN, and the CPU's allocator."""

_turns: WeakKeyDictionary[PatchEncoder, threading.Lock] = WeakKeyDictionary()
"""Of encoders that take one call at a time, whichever slide it is for."""


@dataclass
class Started:
    """A batch that a device is at work on."""

    parts: list[Tensor]
    """Features, float32 (b, D), on their way to this machine's memory."""
    arrived: torch.cuda.Event | None
    """When they are all there; None where they are already."""


class BatchEncoder:
    """Encodes batches on a device; on a GPU in the encoder's own precision, on a CPU in float32, or as asked for.

    Use it as a context manager: leaving it ends its threads.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        device: torch.device,
        finish: Callable[[Tensor], Tensor],
        *,
        threads: int = 1,
        precision: str = AUTO,
    ) -> None:
        """Move the encoder to the device.

        Args:
            encoder: the encoder.
            device: where to compute.
            finish: turns a prepared batch on the device into the network's input (B, 3, H, W), which must last until
                the next call from the same thread.
            threads: parts of a batch that are encoded at once, each in its own thread; for a CPU. An encoder that is
                not reentrant takes one call at a time.
            precision: see `used_precision`.
        """
        self.encoder = encoder.eval().to(device)
        if device.type == "cpu" and is_convolutional(encoder):
            # A quarter faster, as measured (benchmarks/README.md); what is computed is the same but for rounding.
            self.encoder.to(memory_format=torch.channels_last)
        self._device = device
        self._finish = finish
        self._threads = threads if encoder.reentrant else 1
        self._turn: AbstractContextManager[object] = nullcontext()
        if not encoder.reentrant:
            self._turn = _turns.setdefault(encoder, threading.Lock())
        self.precision = used_precision(encoder.precision, device.type, precision)
        with self._turn:  # both may run the model
            encoder.accept_patches(self.precision)
            self._dim = encoder.embedding_dim
        self.largest: int | None = None
        """Patches that fit into the device's memory at once, where that became known by failing."""
        self._executor = single_core_threads(threads, "trident-encode") if self._threads > 1 else None

    def __enter__(self) -> BatchEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def start(self, pixels: Tensor) -> Started:
        """Begin to encode a batch; a GPU goes on by itself after the return. `collect` gives the features.

        Where memory runs out, the batch is encoded in halves, and so are those after it.

        Raises:
            TridentError: not even one patch fits.
            SettingsError: the encoder's output is not (B, D).
        """
        if self._executor is None:
            parts = self._encode(pixels)
        else:
            # As even as they come: the batch is done when the slowest part is.
            shares = torch.tensor_split(pixels, min(self._threads, len(pixels)))
            parts = [part for parts in self._executor.map(self._encode, shares) for part in parts]
        # The copies are queued right behind the batch: asked for later, they would wait for the batch after it too.
        parts = [part.to("cpu", non_blocking=True) for part in parts]
        if self._device.type != "cuda":
            return Started(parts, None)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self._device))
        return Started(parts, arrived)

    def _encode(self, pixels: Tensor) -> list[Tensor]:
        parts: list[Tensor] = []
        done = 0
        while done < len(pixels):
            count = min(self.largest or len(pixels), len(pixels) - done)
            part = self._try(pixels[done : done + count])
            if part is not None:
                parts.append(part)
                done += count
                continue
            # Outside of the except clause: only now are the failed attempt's tensors let go.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            if count == 1:
                advice = "free memory or choose a smaller encoder"
                if self._device.type != "cpu":
                    advice = "free the device, choose a smaller encoder, or use the CPU (--gpus -1)"
                name = self.encoder.enc_name
                raise TridentError(f"encoder {name} runs out of memory on {self._device} with a single patch; {advice}")
            self.largest = count // 2
            logger.warning(
                "encoder %s: out of memory on %s with %d patches at once; going on with %d",
                self.encoder.enc_name,
                self._device,
                count,
                self.largest,
            )
        return parts

    def collect(self, started: Started) -> NDArray[np.float32]:
        """Features (B, D) of a batch that was started; waits for the device."""
        if started.arrived is not None:
            started.arrived.synchronize()
        array: NDArray[np.float32] = torch.cat(started.parts).numpy()
        return array

    def _try(self, pixels: Tensor) -> Tensor | None:
        """Features of a batch, or None where memory runs out."""
        try:
            with torch.inference_mode(), autocast(self._device.type, self.precision):
                batch = self._finish(pixels.to(self._device, non_blocking=True))
                with self._turn:
                    features: Tensor = self.encoder(batch)
                    self._check_shape(features, len(batch))
                    # A copy: the next call may write over the input, or over an output that the encoder keeps.
                    return features.to(dtype=torch.float32, copy=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _check_shape(self, features: object, n_patches: int) -> None:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if found != (n_patches, self._dim):
            raise SettingsError(
                f"encoder {self.encoder.enc_name} gave {found} for {n_patches} patches; "
                f"its model must give a tensor ({n_patches}, {self._dim})"
            )


def is_convolutional(model: nn.Module) -> bool:
    """Whether most of a model's weights are kernels of two-dimensional convolutions; not so of a transformer."""
    sizes = [(weight.ndim == 4, weight.numel()) for weight in model.parameters()]
    return 2 * sum(size for is_kernel, size in sizes if is_kernel) > sum(size for _, size in sizes)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, in any of the ways that torch and CUDA's libraries have for it."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
