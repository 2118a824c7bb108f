"""Memory for batches that outlives the slide. Imports torch: import this module lazily.

The operating system clears new memory page by page when it is first touched. For a slide of a few hundred patches that
took up to a third of the whole time (benchmarks/README.md), so what one slide leaves is used for the next.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

import torch
from torch import Tensor

MAX_KEPT_BYTES = 512 << 20
"""Most memory that waits for the next slide."""


class BufferPool:
    """Keeps the memory of tensors that were given back, for tensors of any shape and type. Safe to use from threads.

    Args:
        max_bytes: most memory kept.
    """

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: list[Tensor] = []  # uint8, flat, smallest first
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor on the CPU with any content."""
        n_bytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            found = next((number for number, memory in enumerate(self._kept) if memory.nbytes >= n_bytes), None)
            if found is not None:
                memory = self._kept.pop(found)
            elif self._kept:
                self._kept.pop()  # too small: its successor comes back in its place
        if found is None:
            memory = torch.empty(n_bytes, dtype=torch.uint8)
        return memory[:n_bytes].view(dtype).view(shape)

    def give_back(self, tensors: Iterable[Tensor]) -> None:
        """Keep the memory of tensors from `take`, which nobody looks at any more."""
        with self._lock:
            for tensor in tensors:
                memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._kept.append(memory)
            self._kept.sort(key=lambda memory: memory.nbytes)
            while self._kept and self.kept_bytes > self._max_bytes:
                self._kept.pop(0)

    @property
    def kept_bytes(self) -> int:
        """Memory that waits."""
        return sum(memory.nbytes for memory in self._kept)


batch_buffers = BufferPool()
"""Of this process."""
