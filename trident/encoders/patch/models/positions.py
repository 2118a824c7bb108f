"""Position tables of another grid than the network's. Imports torch: import this module lazily."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from trident.errors import WeightsError


def fit_grid(table: Tensor, side: int, path: Path) -> Tensor:
    """The position table (1, 1 + n * n, D) of a weights file on a grid of `side` x `side` tokens.

    Both CONCH encoders are loaded this way: bilinear, without antialiasing; the class token's entry stays as it is. A
    table that has the right length already comes back untouched.

    Raises:
        WeightsError: the table is not that of a square grid and a class token.
    """
    if table.ndim != 3 or table.shape[0] != 1:
        raise WeightsError(
            f"{path}: the position table has the shape {tuple(table.shape)} instead of (1, tokens, width); "
            "check that the file belongs to the encoder"
        )
    count = table.shape[1] - 1
    if count == side * side:
        return table
    own = math.isqrt(max(count, 0))
    if own < 1 or own * own != count:
        raise WeightsError(
            f"{path}: the position table has {table.shape[1]} entries, which is not a class token and a square grid; "
            "check that the file belongs to the encoder"
        )
    return _with_grid(table, F.interpolate(_as_map(table, own), size=(side, side), mode="bilinear"))


def enlarge_dino(table: Tensor, height: int, width: int) -> Tensor:
    """A position table (1, 1 + n * n, D) for a grid of `height` x `width` tokens, as the first DINO resamples it.

    Bicubic, without antialiasing, by a scale factor that is 0.1 token too large: the network has learned with that
    small stretch, so giving the size instead would shift every position.
    """
    own = math.isqrt(table.shape[1] - 1)
    if (height, width) == (own, own):
        return table
    factors = ((height + 0.1) / own, (width + 0.1) / own)
    return _with_grid(table, F.interpolate(_as_map(table, own), scale_factor=factors, mode="bicubic"))


def _as_map(table: Tensor, side: int) -> Tensor:
    return table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)


def _with_grid(table: Tensor, grid: Tensor) -> Tensor:
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
