"""One part of a published file of weights that holds more than this package runs. torch is imported when called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from trident.encoders.checkpoint import load_checkpoint
from trident.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


def load_part(path: Path, prefix: str, *, canonical: Callable[[str], str] = str) -> dict[str, Tensor]:
    """The tensors of `path` whose names begin with `prefix`, by their names without it, on the CPU.

    Of a safetensors file nothing else is read, so that a text model of gigabytes beside them costs nothing.

    Args:
        path: file of weights.
        prefix: such as "vision_encoder.".
        canonical: the one name of a tensor that is published under several; the first of these, sorted, is read.

    Raises:
        WeightsError: missing or damaged file, or no such part in it.
    """
    if path.suffix.lower() != ".safetensors":
        state = load_checkpoint(path)
        return {name: state[stored] for name, stored in _chosen(state, prefix, canonical, path).items()}

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as stored_tensors:
            chosen = _chosen(stored_tensors.keys(), prefix, canonical, path)
            return {name: stored_tensors.get_tensor(stored) for name, stored in chosen.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: missing, damaged or not a safetensors file ({error}); correct the path or download it again"
        ) from error


def _chosen(stored: Iterable[str], prefix: str, canonical: Callable[[str], str], path: Path) -> dict[str, str]:
    """Canonical name -> the name in the file that is read for it."""
    chosen: dict[str, str] = {}
    for name in sorted(stored):
        if name.startswith(prefix):
            chosen.setdefault(canonical(name.removeprefix(prefix)), name)
    if not chosen:
        raise WeightsError(
            f"{path}: holds no tensor named {prefix}...; check that the file belongs to the encoder, and is complete"
        )
    return chosen
