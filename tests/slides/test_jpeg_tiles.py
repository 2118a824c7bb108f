"""trident/slides/jpeg_tiles.py: tiles as Pillow decodes them, and damage that is noticed."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from trident.slides import jpeg_tiles
from trident.slides.eligibility import TiledPage

pytest.importorskip("simplejpeg")
from trident.slides.jpeg_tiles import JpegTiles, jpeg_decoder

SIDE_PX = 64


def encoded(seed: int, **options: Any) -> tuple[bytes, np.ndarray]:
    """A JPEG tile, and what Pillow makes of it."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((SIDE_PX, SIDE_PX)).save(buffer, "JPEG", **options)
    return buffer.getvalue(), np.asarray(Image.open(buffer).convert("RGB"))


def opened(path: Path, tiles: list[bytes], tables: bytes = b"", *, is_ycbcr: bool = True) -> JpegTiles:
    path.write_bytes(b"head" + b"".join(tiles))
    counts = np.array([len(tile) for tile in tiles], dtype=np.int64)
    page = TiledPage(
        size=(SIDE_PX * len(tiles), SIDE_PX),
        tile_size=(SIDE_PX, SIDE_PX),
        compression=7,
        offsets=4 + np.concatenate([[0], counts.cumsum()[:-1]]),
        byte_counts=counts,
        has_restart_interval=False,
        jpeg_tables=tables,
        is_ycbcr=is_ycbcr,
    )
    decoder = jpeg_decoder()
    assert decoder is not None
    return JpegTiles(path, page, decoder)


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"quality": 30}])
def test_pixels_are_pillows(options: dict[str, Any], tmp_path: Path) -> None:
    made = [encoded(seed, **options) for seed in range(3)]
    tiles = opened(tmp_path / "tiles", [data for data, _ in made])
    out = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    for index, (_, expected) in enumerate(made):
        assert tiles.decode(index, out)
        assert np.array_equal(out, expected)


def test_shared_tables_and_rgb(shared_slides: Path) -> None:
    """A real slide whose tiles hold RGB without saying so, and share their tables."""
    from trident.slides.eligibility import tiled_pages
    from trident.slides.openslide import OpenSlideSlide

    path = shared_slides / "CMU-1-Small-Region.svs"
    page = tiled_pages(path)[0]
    assert page.jpeg_tables
    assert not page.is_ycbcr
    decoder = jpeg_decoder()
    assert decoder is not None
    width_px, height_px = page.tile_size
    out = np.empty((height_px, width_px, 3), np.uint8)
    assert JpegTiles(path, page, decoder).decode(page.tiles_across + 2, out)
    with OpenSlideSlide(path) as slide:
        assert np.array_equal(out, slide.read_region((2 * width_px, height_px), 0, page.tile_size))


SOUND = encoded(0)[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * len(SOUND),
        SOUND[: len(SOUND) // 2],
        SOUND[:-40] + b"\xff\xd9",
        SOUND[:200] + bytes(100) + SOUND[300:],
        b"\xff\xd8\xff\xd9",
        encoded(0)[0].replace(bytes([0, SIDE_PX, 0, SIDE_PX]), bytes([0, SIDE_PX // 2, 0, SIDE_PX])),
    ],
    ids=["absent", "zeros", "half", "early end", "a hole in its tables", "nothing inside", "another size"],
)
def test_a_tile_in_doubt_is_not_decoded(data: bytes, tmp_path: Path) -> None:
    tiles = opened(tmp_path / "tiles", [data, SOUND])
    out = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    assert not tiles.decode(0, out)
    assert tiles.decode(1, out)


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    tiles = opened(tmp_path / "tiles", [SOUND, SOUND])
    (tmp_path / "tiles").write_bytes((tmp_path / "tiles").read_bytes()[:-10])
    out = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    assert tiles.decode(0, out)
    assert not tiles.decode(1, out)


def test_a_read_that_fails_is_left_to_another_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = opened(tmp_path / "tiles", [SOUND])
    out = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fails := Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        assert not tiles.decode(0, out)
    fails.assert_called_once()
    assert tiles.decode(0, out)


def test_waiting_for_the_file_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = opened(tmp_path / "tiles", [SOUND])
    out = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    pread = os.pread

    def slow(*arguments: int) -> bytes:
        time.sleep(0.02)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", slow)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: tiles.decode(0, out.copy()), range(20)))
    assert tiles.read_s >= 20 * 0.02


def test_without_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    jpeg_tiles.jpeg_decoder.cache_clear()
    try:
        assert jpeg_decoder() is None
    finally:
        jpeg_tiles.jpeg_decoder.cache_clear()
