"""Synthetic slides: tiled pyramids that OpenSlide takes as Aperio's, written without a JPEG codec for tifffile."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

TILE_PX = 128


class SlideWriter(Protocol):
    """Writes a pyramid of `levels` (downsamples) of the synthetic scene to a file."""

    def __call__(
        self, file_name: str, downsamples: Sequence[float] = ..., codec: str = ..., mpp: str = ..., vendor: str = ...
    ) -> Path:
        """Path of the slide."""


def encoded_tiles(image: np.ndarray, format_: str, options: dict[str, Any]) -> Iterator[bytes]:
    height, width = image.shape[:2]
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            part = image[y : y + TILE_PX, x : x + TILE_PX]
            part = np.pad(part, ((0, TILE_PX - part.shape[0]), (0, TILE_PX - part.shape[1]), (0, 0)), mode="edge")
            buffer = io.BytesIO()
            Image.fromarray(part).save(buffer, format_, **options)
            yield buffer.getvalue()


def write_pyramid(path: Path, levels: Sequence[np.ndarray], codec: str, mpp: str, vendor: str) -> None:
    height, width = levels[0].shape[:2]
    description = "Aperio" if vendor == "aperio" else "Plain"
    description += f" Image Library v11.2.1 \r\n{width}x{height} ({TILE_PX}x{TILE_PX}) Q=80|AppMag = 40"
    description += f"|MPP = {mpp}" if mpp else ""
    format_, compression, photometric, options = {
        "jpeg": ("JPEG", 7, 6, {"quality": 80}),
        "jpeg2000": ("JPEG2000", 33005, 2, {"no_jp2": True, "irreversible": True}),
        "deflate": ("", 8, 2, {}),
    }[codec]
    shared: dict[str, Any] = {"photometric": "rgb", "description": description, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            shared["subfiletype"] = 1 if number and vendor != "aperio" else 0
            data: Any = encoded_tiles(level, format_, options) if codec != "deflate" else level
            tiff.write(data, shape=level.shape, dtype="uint8", tile=(TILE_PX, TILE_PX), compression="deflate", **shared)
            if number == 0 and vendor == "aperio":  # its second page is always a thumbnail
                tiff.write(np.ascontiguousarray(level[::8, ::8]), rowsperstrip=16, **shared)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            if page.is_tiled:
                page.tags["Compression"].overwrite(compression)
                page.tags["PhotometricInterpretation"].overwrite(photometric)


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A smooth random picture, 1000 x 830 px, no two places alike."""
    noise = np.random.default_rng(5).integers(0, 256, (42, 50, 3), dtype=np.uint8)
    return cv2.resize(noise, (1000, 830), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def write_slide(tmp_path: Path, scene: np.ndarray) -> SlideWriter:
    """Writes pyramids of `scene` into the test's own folder."""

    def write(
        file_name: str,
        downsamples: Sequence[float] = (1, 4, 8.03),
        codec: str = "jpeg",
        mpp: str = "0.25",
        vendor: str = "aperio",
    ) -> Path:
        height, width = scene.shape[:2]
        sizes = [(int(width / downsample), int(height / downsample)) for downsample in downsamples]
        levels = [scene if size == (width, height) else cv2.resize(scene, size, None, 0, 0, 3) for size in sizes]
        path = tmp_path / file_name
        write_pyramid(path, levels, codec, mpp, vendor)
        return path

    return write
