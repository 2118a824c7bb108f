"""One batch through an encoder: device, precision, and what to do when memory runs out. Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trident.encoders.patch.base import PatchEncoder
from trident.errors import SettingsError, TridentError
from trident.features.threads import single_core_threads

logger = logging.getLogger(__name__)


class BatchEncoder:
    """Encodes batches on a device; on a GPU in the encoder's own precision, on a CPU in float32.

    Use it as a context manager: leaving it ends its threads.
    """

    def __init__(
        self, encoder: PatchEncoder, device: torch.device, finish: Callable[[Tensor], Tensor], *, threads: int = 1
    ) -> None:
        """Move the encoder to the device.

        Args:
            encoder: the encoder.
            device: where to compute.
            finish: turns a prepared batch on the device into the network's input (B, 3, H, W), which must last until
                the next call from the same thread.
            threads: parts of a batch that are encoded at once, each in its own thread; for a CPU.
        """
        self.encoder = encoder.eval().to(device)
        self._device = device
        self._finish = finish
        self._threads = threads
        self._dim = encoder.embedding_dim
        self.largest: int | None = None
        """Patches that fit into the device's memory at once, where that became known by failing."""
        self._executor = single_core_threads(threads, "trident-encode") if threads > 1 else None

    def __enter__(self) -> BatchEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def start(self, pixels: Tensor) -> list[Tensor]:
        """Begin to encode a batch; a GPU goes on by itself after the return. `collect` gives the features.

        Where memory runs out, the batch is encoded in halves, and so are those after it.

        Raises:
            TridentError: not even one patch fits.
        """
        if self._executor is None:
            return self._encode(pixels)
        # As even as they come: the batch is done when the slowest part is.
        shares = torch.tensor_split(pixels, min(self._threads, len(pixels)))
        return [part for parts in self._executor.map(self._encode, shares) for part in parts]

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
                raise TridentError(
                    f"encoder {self.encoder.enc_name} runs out of memory on {self._device} with a single patch; "
                    "free the device, choose a smaller encoder, or use the CPU (--gpus -1)"
                )
            self.largest = count // 2
            logger.warning(
                "encoder %s: out of memory on %s with %d patches at once; going on with %d",
                self.encoder.enc_name,
                self._device,
                count,
                self.largest,
            )
        return parts

    def collect(self, parts: list[Tensor]) -> NDArray[np.float32]:
        """Features (B, D) of a batch that was started; waits for the device.

        Raises:
            SettingsError: the encoder's output is not (B, D).
        """
        features = torch.cat([part.to(dtype=torch.float32) for part in parts]).cpu()
        if features.ndim != 2 or features.shape[1] != self._dim:
            raise SettingsError(
                f"encoder {self.encoder.enc_name} gave features of shape {tuple(features.shape)}; "
                f"expected (patches, {self._dim})"
            )
        array: NDArray[np.float32] = features.numpy()
        return array

    def _try(self, pixels: Tensor) -> Tensor | None:
        """Features of a batch, or None where memory runs out."""
        precision = self.encoder.precision
        on_gpu = self._device.type == "cuda"
        try:
            with (
                torch.inference_mode(),
                torch.autocast(
                    self._device.type,
                    dtype=precision if on_gpu else None,
                    enabled=on_gpu and precision is not torch.float32,
                ),
            ):
                batch = self._finish(pixels.to(self._device, non_blocking=True))
                features: Tensor = self.encoder(batch)
                # An input on the CPU is written over by the next one.
                shares = features.device == batch.device and _storage(features) == _storage(batch)
                return features.clone() if shares else features
        except torch.OutOfMemoryError:
            return None


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
