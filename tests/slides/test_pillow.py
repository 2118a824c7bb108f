"""trident/slides/pillow.py, and everything that opens images with it: Pillow's own limit neither fires nor warns."""

from __future__ import annotations

import struct
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from trident.errors import SlideMemoryError, UnreadableSlideError
from trident.slides.diagnosis import explain_unopenable
from trident.slides.image import ImageSlide
from trident.slides.pillow import (
    IMAGE_FORMATS,
    BadImageError,
    NotAnImageError,
    OversizedImageError,
    load_pixels,
    opened_image,
)
from trident.viz.features.overlay import _thumbnail
from trident.viz.report.pictures import make_pictures

LIMIT_PX = 5_000
"""Pillow raises above twice as many pixels, and warns above as many."""


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit far below the sizes of these tests, and its warning an error."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT_PX)
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def tiled_tiff(path: Path, pixels: np.ndarray) -> None:
    """A TIFF of one tile, whose size Pillow measures only when it decodes."""
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="zlib", photometric="rgb", metadata=None)


def thumbnail(path: Path) -> None:
    with ImageSlide(path) as slide:
        assert slide.thumbnail((32, 32)).shape == (32, 32, 3)


def region(path: Path) -> None:
    with ImageSlide(path) as slide:
        slide.read_region((0, 0), 0, (32, 32))


def diagnosis(path: Path) -> None:
    assert " image, not a slide; use --reader_type image" in explain_unopenable(path)


def report(path: Path) -> None:
    made, problems = make_pictures({"a": path}, {}, 64)
    assert (list(made), problems) == (["a"], {})


def backdrop(path: Path) -> None:
    assert _thumbnail(path, (32, 32)).max() < 200  # of the image, not the white of no image


@pytest.mark.parametrize(("use", "kind"), [(thumbnail, "bmp"), (region, "png"), (diagnosis, "bmp")])
@pytest.mark.parametrize("side_px", [80, 128], ids=["warns", "raises"])
def test_the_limit_of_pillow_does_not_fire(
    use: Callable[[Path], None], kind: str, side_px: int, tmp_path: Path, low_limit: None
) -> None:
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (side_px, side_px), (90, 90, 90)).save(path)
    use(path)
    assert Image.MAX_IMAGE_PIXELS == LIMIT_PX


@pytest.mark.parametrize("use", [thumbnail, region, report, backdrop])
@pytest.mark.usefixtures("low_limit")
def test_the_limit_of_pillow_does_not_fire_while_it_decodes_either(use: Callable[[Path], None], tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "a.tif", np.full((128, 128, 3), 90, np.uint8))
    use(tmp_path / "a.tif")
    assert Image.MAX_IMAGE_PIXELS == LIMIT_PX


def test_blocks_of_several_threads_lift_the_limit_together(tmp_path: Path, low_limit: None) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    inside, may_leave = threading.Barrier(3), threading.Event()
    limits: list[int | None] = []

    def hold(stays: bool) -> None:
        with opened_image(tmp_path / "a.png") as image:
            inside.wait(600)
            if stays:
                may_leave.wait(600)
            limits.append(Image.MAX_IMAGE_PIXELS)
            load_pixels(image)

    threads = [threading.Thread(target=hold, args=(stays,)) for stays in (True, False)]
    for thread in threads:
        thread.start()
    inside.wait(600)
    threads[1].join(600)
    assert Image.MAX_IMAGE_PIXELS is None  # the other block goes on
    may_leave.set()
    threads[0].join(600)
    assert limits == [None, None]
    assert Image.MAX_IMAGE_PIXELS == LIMIT_PX


def test_our_own_limit_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (30, 20)).save(path)
    with opened_image(path, max_px=600) as image:
        assert image.size == (30, 20)
    with pytest.raises(OversizedImageError, match="it claims 30 x 20 px") as caught, opened_image(path, max_px=599):
        pass
    assert caught.value.size == (30, 20)


def test_every_format_is_one_of_pillows() -> None:
    Image.init()
    assert set(IMAGE_FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "ICNS", "PCX"])
def test_formats_that_are_no_slides_are_not_opened(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png", kind)
    with pytest.raises(NotAnImageError), opened_image(tmp_path / "a.png"):
        pass
    with pytest.raises(UnreadableSlideError, match="not an image that Pillow reads"):
        ImageSlide(tmp_path / "a.png")


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken data\nstream"),
        OverflowError("signed integer is greater than maximum"),
        TypeError("'str' object cannot be interpreted as an integer"),
        KeyError(273),
        struct.error("unpack requires 4 bytes"),
        ZeroDivisionError("division by zero"),
        AssertionError(),
    ],
)
def test_whatever_pillow_raises_is_one_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: object) -> None:
        raise error

    path = tmp_path / "a.tif"
    Image.new("RGB", (40, 30)).save(path)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", load)
    with pytest.raises(BadImageError, match="does not decode"), opened_image(path) as image:
        load_pixels(image)
    with ImageSlide(path) as slide, pytest.raises(UnreadableSlideError, match="does not decode") as caught:
        slide.thumbnail((10, 10))
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; fetch it again")
    assert "\n" not in str(caught.value)
    made, problems = make_pictures({"a": path}, {}, 64)
    assert made == {}
    assert problems["a"].startswith("it is damaged (the image does not decode (")


def test_a_tag_of_the_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offsets = tiff.pages.first.tags["StripOffsets"].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<HI4s", data, offsets + 2, 2, 4, b"text")  # ASCII
    path.write_bytes(data)
    with ImageSlide(path) as slide, pytest.raises(UnreadableSlideError, match=r"does not decode.*fetch it again"):
        slide.thumbnail((10, 10))


def test_no_memory_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: object) -> None:
        raise MemoryError

    path = tmp_path / "a.tif"
    Image.new("RGB", (40, 30)).save(path)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", load)
    with ImageSlide(path) as slide, pytest.raises(SlideMemoryError, match="its 40 x 30 px do not fit into the memory"):
        slide.thumbnail((10, 10))
    assert make_pictures({"a": path}, {}, 64) == ({}, {"a": "it does not fit into the memory that is left"})
    assert (_thumbnail(path, (8, 8)) == 255).all()


@pytest.mark.parametrize("tile_px", [8, 1 << 14])
def test_a_tiff_is_held_to_the_limits_of_all_tiffs(tile_px: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiled_tiff(path, np.zeros((64, 64, 3), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["TileWidth"].overwrite(tile_px)
        tiff.pages.first.tags["TileLength"].overwrite(tile_px)
    with pytest.raises(UnreadableSlideError, match="its tiles claim"):
        ImageSlide(path)
