from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trident.slides.eligibility import tiled_pages
from trident.slides.tile_check import TileChecker, has_filled_block, parse_header


def jpeg(size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_a_header_ends_where_coded_data_begins() -> None:
    data = jpeg()
    header = parse_header(data, (64, 48))
    assert header is not None
    assert data[header.length - 14 : header.length - 12] == b"\xff\xda"
    assert not header.announces_restarts
    restarting = parse_header(jpeg(restart_marker_blocks=2), (64, 48))
    assert restarting is not None
    assert restarting.announces_restarts


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        bytes(200),
        jpeg()[:100],
        jpeg()[1:],
        jpeg((48, 64)),
        b"\xff\xd8\xff\xdb\0\0" + jpeg()[2:],
        b"\xff\xd8" + b"\xff\xdb\xff\xff" + bytes(10),
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    assert parse_header(data, (64, 48)) is None


def test_all_tiles_of_a_sound_slide_are_sound(write_slide: Any) -> None:
    path = write_slide("a.svs")
    pages = tiled_pages(path)
    checker = TileChecker(path, pages)
    for level, page in enumerate(pages):
        assert checker.is_sound(level, (0, 0, *page.size))


def test_only_tiles_under_the_box_count(write_slide: Any) -> None:
    path = write_slide("a.svs")
    pages = tiled_pages(path)
    with path.open("r+b") as file:  # tile 10: x 256..383, y 128..255
        file.seek(int(pages[0].offsets[10]) + 2000)
        file.write(b"\xff\xff\xff\xff")
    checker = TileChecker(path, pages)
    for box, sound in {
        (256, 128, 384, 256): False,
        (383, 255, 384, 256): False,
        (0, 0, 1000, 830): False,
        (0, 0, 256, 256): True,
        (0, 0, 257, 129): False,
        (384, 0, 1000, 830): True,
        (256, 256, 384, 300): True,
    }.items():
        assert checker.is_sound(0, box) is sound, box
        assert checker.is_sound(0, box) is sound, box
    checker.doubt(0, (130, 0, 256, 10))
    assert not checker.is_sound(0, (200, 50, 201, 51))
    assert checker.is_sound(0, (0, 0, 128, 128))
    assert checker.is_sound(0, (256, 0, 384, 128))
    assert checker.is_sound(1, (0, 0, 10, 10))


def test_the_file_is_closed_with_its_checker(write_slide: Any) -> None:
    path = write_slide("a.svs")
    checker = TileChecker(path, tiled_pages(path))
    descriptor = checker._descriptor
    assert Path(f"/proc/self/fd/{descriptor}").resolve() == path.resolve() or not Path("/proc/self/fd").exists()
    del checker
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (50, 61), (92, 92)])
def test_a_filled_block_is_found_wherever_it_is(corner: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    assert not has_filled_block(pixels)
    x, y = corner
    pixels[y : y + 8, x : x + 8, 1] = 128
    assert not has_filled_block(pixels)
    pixels[y : y + 8, x : x + 8] = 128
    assert has_filled_block(pixels)


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 100, 3), (100, 2, 3)])
def test_a_strip_too_thin_for_a_block_is_not_filled(shape: tuple[int, int, int]) -> None:
    assert not has_filled_block(np.full(shape, 128, np.uint8))
