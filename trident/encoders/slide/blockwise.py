"""Row-wise functions on many rows with a bounded peak of memory. Imports torch: import this module lazily."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_AT_ONCE = 8192
"""Rows that a wide layer sees at once: 100 MB of float32 where it is 3,072 wide."""


def by_rows(function: Callable[[Tensor], Tensor], rows: Tensor, rows_at_once: int = ROWS_AT_ONCE) -> Tensor:
    """`function` of (N, F), given at most `rows_at_once` rows at a time; it must treat every row by itself."""
    if len(rows) <= rows_at_once:
        return function(rows)
    return torch.cat([function(part) for part in torch.split(rows, rows_at_once)])
