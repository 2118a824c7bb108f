"""The floating-point type that a model computes in. Imports torch: import this module lazily."""

from __future__ import annotations

import torch

AUTO = "auto"
"""Of `--precision`: the encoder's declared type on a GPU, float32 on a CPU."""


def used_precision(declared: torch.dtype, device_type: str, asked: str = AUTO) -> torch.dtype:
    """The type that a model with a declared one computes in on a device.

    Args:
        declared: the model's own.
        device_type: "cpu" or "cuda".
        asked: a value of `--precision`; any but `auto` holds on every device.
    """
    if asked != AUTO:
        precision: torch.dtype = getattr(torch, asked)
        return precision
    return declared if device_type == "cuda" else torch.float32


def autocast(device_type: str, precision: torch.dtype) -> torch.autocast:
    """Context in which torch computes with that type where it is safe to; for float32, one without effect."""
    reduced = precision is not torch.float32
    return torch.autocast(device_type, dtype=precision if reduced else None, enabled=reduced)


def precision_name(precision: torch.dtype) -> str:
    """`float16` of `torch.float16`."""
    return str(precision).removeprefix("torch.")
