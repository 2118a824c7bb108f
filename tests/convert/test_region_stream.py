"""A slide as the bytes of a TIFF: read by tifffile, which knows nothing of it, and by libvips."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tifffile

from trident.convert.region_stream import RegionStream, tiff_header
from trident.errors import UnreadableSlideError
from trident.slides.base import RGBImage, Slide


class ArraySlide(Slide):
    """A slide in memory, whose pixels below `broken_from` do not decode."""

    reader_type: ClassVar[str] = "array"

    def __init__(self, pixels: RGBImage, properties: Mapping[str, str] | None = None, broken_from: int = 10**9) -> None:
        self.path = Path("array.svs")
        self.dimensions = (pixels.shape[1], pixels.shape[0])
        self.properties = properties or {}
        self.pixels = pixels
        self.broken_from = broken_from

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        (x, y), (width, height) = location, size
        if y + height > self.broken_from:
            raise UnreadableSlideError(self.path, f"the region at ({x}, {y}) does not decode")
        region = self.pixels[y : y + height, x : x + width]
        assert region.shape == (height, width, 3), "regions stay inside the slide"
        return region

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        raise AssertionError("no thumbnail is needed")

    def close(self) -> None:
        """Nothing is open."""


def _pixels(width: int, height: int) -> RGBImage:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _whole(stream: RegionStream) -> bytes:
    parts = []
    while part := stream.read(10_000):
        parts.append(bytes(part))
    return b"".join(parts)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 700), (2049, 256), (4100, 257), (300, 513)])
@pytest.mark.parametrize("tile_height", ["", "240", "9999"])
def test_tifffile_reads_the_slides_pixels(width: int, height: int, tile_height: str) -> None:
    pixels = _pixels(width, height)
    stream = RegionStream(ArraySlide(pixels, {"openslide.level[0].tile-height": tile_height}), threads=2)
    with tifffile.TiffFile(io.BytesIO(_whole(stream))) as tiff:
        assert tiff.is_bigtiff
        np.testing.assert_array_equal(tiff.asarray(), pixels)
    assert stream.seek(0, io.SEEK_END) == stream.seek(0, io.SEEK_CUR)
    assert stream.read(1) is None
    stream.close()


def test_strips_are_whole_tiles_of_the_slide() -> None:
    key, chunks, axes = "openslide.level[0].tile-height", "omezarr.chunks", "omezarr.axes"
    for properties, rows in (
        ({}, 256),
        ({key: "240"}, 480),
        ({key: "256"}, 256),
        ({key: "1024"}, 1024),
        ({key: "4096"}, 256),
        ({key: "x"}, 256),
        ({chunks: "3 x 512 x 300", axes: "cyx"}, 512),
        ({chunks: "512 x 300 x 3", axes: "yxc"}, 512),
        ({chunks: "3 x 512", axes: "cyx"}, 256),
        ({chunks: "", axes: ""}, 256),
    ):
        stream = RegionStream(ArraySlide(_pixels(3, 2000), properties), 1)
        with tifffile.TiffFile(io.BytesIO(_whole(stream))) as tiff:
            assert tiff.pages.first.rowsperstrip == rows  # type: ignore[union-attr]
        stream.close()


def test_a_header_of_many_strips() -> None:
    header = tiff_header(200_000, 150_000, 256)
    assert header[:4] == b"II\x2b\0"
    with tifffile.TiffFile(io.BytesIO(header)) as tiff:
        page = tiff.pages.first
        assert page.shape == (150_000, 200_000, 3)
        offsets, counts = page.dataoffsets, page.databytecounts
    assert offsets[0] == len(header)
    assert [counts[0], counts[-1]] == [256 * 600_000, 240 * 600_000]
    assert offsets[-1] + counts[-1] == len(header) + 150_000 * 600_000


def test_libvips_reads_it_and_fails_where_the_slide_does() -> None:
    pyvips = pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")
    pixels = _pixels(700, 900)
    for broken_from in (10**9, 600):
        stream = RegionStream(ArraySlide(pixels, broken_from=broken_from), threads=2)
        source = pyvips.SourceCustom()
        source.on_read(stream.read)
        source.on_seek(stream.seek)
        image = pyvips.Image.tiffload_source(source, access="sequential", fail_on="error")
        if broken_from > 900:
            np.testing.assert_array_equal(image.numpy(), pixels)
            assert stream.failure is None
        else:
            with pytest.raises(pyvips.Error):
                image.write_to_memory()
            assert isinstance(stream.failure, UnreadableSlideError)
        stream.close()
