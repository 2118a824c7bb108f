"""How many bytes a stage writes for one slide, from the number of patches and the layout of the files."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION

_CHUNK_BYTES = 1 << 20
_COORD_BYTES = 2 * 8
_FLOAT_BYTES = 4
_H5_BYTES = 8 << 10
"""What HDF5, the attributes and the recipe take in a file."""

OUTLINE_BYTES = 350_000
"""Typical outlines, thumbnail and picture of a slide, where no earlier run tells (1000 px JPEG: 60 to 250 kB each)."""
PICTURE_BYTES = 130_000
"""A typical picture of the patches."""
_PNG_SHARE, _JPEG_SHARE = 0.6, 0.12
"""Bytes of a patch image of stained tissue, of those of its pixels."""


def features_bytes(n_patches: int, dim: int) -> int:
    """Patch features: N x D float32 in chunks of up to 1 MiB of whole rows, of which the last is stored whole, and
    N x 2 int64."""
    rows = max(1, min(n_patches, _CHUNK_BYTES // (_FLOAT_BYTES * dim)))
    stored_rows = math.ceil(n_patches / rows) * rows
    return stored_rows * dim * _FLOAT_BYTES + n_patches * _COORD_BYTES + _H5_BYTES


def embedding_bytes(n_patches: int, dim: int) -> int:
    """A slide embedding: D float32, and the coordinates again."""
    return dim * _FLOAT_BYTES + n_patches * _COORD_BYTES + _H5_BYTES


def coords_bytes(n_patches: int, picture_bytes: float = PICTURE_BYTES) -> int:
    """Coordinates and their picture."""
    return n_patches * _COORD_BYTES + _H5_BYTES + round(picture_bytes)


def images_bytes(n_patches: int, limit: int, side_px: int, image_format: str) -> int:
    """Patch images of `--dump_patches`.

    Args:
        n_patches: of the slide.
        limit: most images a slide; 0: all.
        side_px: of a patch.
        image_format: `png` or `jpg`.
    """
    count = min(n_patches, limit) if limit else n_patches
    return round(count * side_px**2 * 3 * (_PNG_SHARE if image_format == "png" else _JPEG_SHARE))


def stage_bytes(kind: str, n_patches: int, dim: int | None, noted: float | None) -> int | None:
    """Bytes that one stage writes for one slide; None where the length of its vectors is not known.

    Args:
        kind: of the stage.
        n_patches: of the slide.
        dim: length of a feature vector.
        noted: what the stage wrote for other slides, on average; used for what depends on pixels.
    """
    if kind == SEGMENTATION:
        return round(OUTLINE_BYTES if noted is None else noted)
    if kind == COORDS:
        return coords_bytes(n_patches)
    if dim is None:
        return None
    return features_bytes(n_patches, dim) if kind == PATCH_FEATURES else embedding_bytes(n_patches, dim)


def free_bytes(folder: Path) -> int | None:
    """Free bytes of the disk on which a folder lies or will be made; None where the system does not say."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return None


def is_writable(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
