"""Patch images on disk, one file a patch, for quality control."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trident.errors import SettingsError
from trident.patching.reader import PatchReader
from trident.store.atomic import begin, discard, store_error

_N_THREADS = 4
_IMAGE_NAME = re.compile(r"\d{6,}_x-?\d+_y-?\d+\.(png|jpg)")


def dump_patches(
    reader: PatchReader,
    coords: NDArray[np.int64],
    folder: Path,
    *,
    limit: int = 0,
    image_format: str = "png",
    jpeg_quality: int = 90,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write patches as `<index:06d>_x<X>_y<Y>.<png or jpg>`, where the index is the patch's row in the coordinates.

    Args:
        reader: gives the pixels.
        coords: top-left corners (x, y) in level-0 pixels, (N, 2).
        folder: created where it is missing; patch images in it that are not of these coordinates are removed.
        limit: write the first so many patches; 0 writes all.
        image_format: `png` or `jpg`.
        jpeg_quality: 1 to 100, for `jpg`.
        on_progress: called with (written, to write) after each file.

    Returns:
        How many files were written.

    Raises:
        SettingsError: an option is out of its range.
        UnreadableSlideError: a patch does not decode; the files written so far stay.
        StoreError: a file cannot be written.
    """
    if limit < 0:
        raise SettingsError(f"--dump_patches_max is {limit}; give 0 for no limit, or a positive number")
    if image_format not in ("png", "jpg"):
        raise SettingsError(f"--dump_patches_format is {image_format!r}; choose png or jpg")
    if not 1 <= jpeg_quality <= 100:
        raise SettingsError(f"--dump_patches_jpeg_quality is {jpeg_quality}; it must lie between 1 and 100")
    chosen = coords[:limit] if limit else coords
    _remove_others(folder, coords)
    if not len(chosen):
        return 0

    def write(index: int) -> None:
        x, y = int(chosen[index, 0]), int(chosen[index, 1])
        image = Image.fromarray(reader.read(x, y))
        _write_image(folder / f"{_stem(index, x, y)}.{image_format}", image, jpeg_quality)

    pool = ThreadPoolExecutor(_N_THREADS, thread_name_prefix="dump-patches")
    try:
        for done, future in enumerate([pool.submit(write, index) for index in range(len(chosen))], start=1):
            future.result()
            if on_progress is not None:
                on_progress(done, len(chosen))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return len(chosen)


def _stem(index: int, x: int, y: int) -> str:
    return f"{index:06d}_x{x}_y{y}"


def _remove_others(folder: Path, coords: NDArray[np.int64]) -> None:
    """Remove images of earlier coordinates, whose numbers would stand for two patches; no other file is touched."""
    current = {_stem(index, x, y) for index, (x, y) in enumerate(coords.tolist())}
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _IMAGE_NAME.fullmatch(path.name) and path.stem not in current:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise store_error(path, error, "removed") from error


def _write_image(path: Path, image: Image.Image, jpeg_quality: int) -> None:
    """Write under a temporary name and rename. Not fsynced: these files are for looking at and can be made anew."""
    temporary = begin(path)
    try:
        if path.suffix == ".jpg":
            image.save(temporary, format="JPEG", quality=jpeg_quality)
        else:
            # The fastest level: a fraction of the default's time for a slightly larger file.
            image.save(temporary, format="PNG", compress_level=1)
        temporary.replace(path)
    except OSError as error:
        raise store_error(path, error) from error
    finally:
        discard(temporary)
