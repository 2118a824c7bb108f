"""One encoder's share of the streaming loop: start a batch, check what comes out, hand it on. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trident.encoders.patch.base import PatchEncoder
from trident.errors import WeightsError
from trident.features.batch_encoder import BatchEncoder, Started
from trident.features.precision import AUTO, precision_name

Sink = Callable[[NDArray[np.float32]], None]
"""Takes the features (b, D) of the next b patches."""


@dataclass(frozen=True)
class EncoderTarget:
    """An encoder, and where its features go."""

    encoder: PatchEncoder
    sink: Sink
    """Takes arrays that it may keep."""
    precision: str = AUTO
    """See `used_precision`."""


class EncoderOutput:
    """What one encoder has under way. Once it has failed it does nothing more: the others go on without it.

    Args:
        begin: puts the encoder on its device; what it raises is this encoder's failure.
        sink: takes the features.
        coords: int (N, 2), for messages.
    """

    def __init__(self, begin: Callable[[], BatchEncoder], sink: Sink, coords: NDArray[np.int64]) -> None:
        self._batch_encoder: BatchEncoder | None = None
        self._sink = sink
        self._coords = coords
        self._under_way: tuple[int, Started] | None = None
        self.failure: Exception | None = None
        self.encode_s = 0.0
        self.write_s = 0.0
        self._guarded(lambda: self._begin(begin))

    @property
    def batch_encoder(self) -> BatchEncoder:
        """The encoder on its device, which it has reached where there is no failure."""
        assert self._batch_encoder is not None
        return self._batch_encoder

    def _begin(self, begin: Callable[[], BatchEncoder]) -> None:
        self._batch_encoder = begin()

    def start(self, first: int, pixels: torch.Tensor) -> None:
        """Queue the batch that begins with patch `first`; the one before may still be under way."""
        self._guarded(lambda: self._start(first, pixels))

    def finish(self, before: tuple[int, Started] | None) -> None:
        """Hand on the features of a batch that was under way."""
        if before is not None:
            self._guarded(lambda: self._finish(*before))

    def fail(self, error: Exception | None) -> None:
        """Do no more from here on, where `error` says why."""
        if error is not None and self.failure is None:
            self.failure = error
            self._under_way = None

    def take(self) -> tuple[int, Started] | None:
        """What is under way, which is then for the caller to `finish`."""
        under_way, self._under_way = self._under_way, None
        return under_way

    def _guarded(self, action: Callable[[], None]) -> None:
        if self.failure is not None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is kept, and raised where no encoder goes on
            self.failure = error
            self._under_way = None

    def _start(self, first: int, pixels: torch.Tensor) -> None:
        began = time.perf_counter()
        started = self.batch_encoder.start(pixels)
        self.encode_s += time.perf_counter() - began
        self._under_way = first, started

    def _finish(self, first: int, started: Started) -> None:
        began = time.perf_counter()
        features = self.batch_encoder.collect(started)
        self.encode_s += time.perf_counter() - began
        self._check_finite(features, first)
        began = time.perf_counter()
        self._sink(features)
        self.write_s += time.perf_counter() - began

    def _check_finite(self, features: NDArray[np.float32], first: int) -> None:
        good: NDArray[np.bool_] = np.isfinite(features).min(axis=1)
        if not good.all():
            x, y = (int(value) for value in self._coords[first + int(np.argmin(good))])
            precision = self.batch_encoder.precision
            why = "its weights are damaged, or its transform gives them"
            if precision is not torch.float32:
                why = f"its weights are damaged, or {precision_name(precision)} is too small (--precision float32)"
            raise WeightsError(
                f"encoder {self.batch_encoder.encoder.enc_name} gave NaN or infinity for {int((~good).sum())} of "
                f"{len(good)} patches, first for the one at ({x}, {y}); {why}"
            )
