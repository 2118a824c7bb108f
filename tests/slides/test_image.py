from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from trident.errors import MissingMppError, UnreadableSlideError
from trident.slides.image import ImageSlide
from trident.slides.shared_pixels import rgb_pixels


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_regions_inside_and_beyond(extension: str, scene: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{extension}"
    Image.fromarray(scene).save(path)
    padded = np.pad(scene, ((300, 300), (300, 300), (0, 0)))
    with ImageSlide(path, mpp=0.5) as slide:
        assert (slide.name, slide.dimensions, slide.level_dimensions) == ("picture", (1000, 830), ((1000, 830),))
        assert slide.level_downsamples == (1.0,)
        for x, y, width, height in [(0, 0, 64, 64), (-100, -50, 300, 200), (950, 800, 128, 99), (1100, 0, 20, 30)]:
            region = slide.read_region((x, y), 0, (width, height))
            expected = padded[300 + y : 300 + y + height, 300 + x : 300 + x + width]
            assert np.array_equal(region, expected)
            assert region.dtype == np.uint8
            assert region.flags.c_contiguous
        with ThreadPoolExecutor(8) as pool:
            corners = [(x, x // 2) for x in range(0, 900, 50)]
            regions = list(pool.map(lambda corner: slide.read_region(corner, 0, (40, 30)), corners))
        assert all(
            np.array_equal(part, scene[y : y + 30, x : x + 40]) for (x, y), part in zip(corners, regions, strict=True)
        )
        thumbnail = slide.thumbnail((100, 100))
        assert thumbnail.shape == (83, 100, 3)
        reference = np.asarray(Image.fromarray(scene).resize((100, 83), Image.Resampling.LANCZOS))
        assert np.abs(thumbnail.astype(int) - reference).mean() < 2
        assert slide.thumbnail((5000, 5000)).shape == scene.shape


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("P", 0, (0, 0, 0)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_other_modes_become_rgb(mode: str, pixel: object, expected: tuple[int, ...], tmp_path: Path) -> None:
    Image.new(mode, (9, 5), pixel).save(tmp_path / "a.png")  # type: ignore[arg-type]
    with ImageSlide(tmp_path / "a.png") as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, (9, 5)), np.full((5, 9, 3), expected))


def test_the_resolution_must_be_given_or_named(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("resolution", "0.25")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=text, dpi=(72, 72))
    with ImageSlide(tmp_path / "a.png") as slide:
        assert slide.mpp_or_none is None
        with pytest.raises(MissingMppError, match="--custom_list_of_wsis"):
            _ = slide.mpp
    assert ImageSlide(tmp_path / "a.png", custom_mpp_keys=["resolution"]).mpp == 0.25
    assert ImageSlide(tmp_path / "a.png", mpp=0.5).mpp_source == "given"


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header states a size, with no pixels to speak of."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(60_000, 60_000))
    with pytest.raises(UnreadableSlideError, match=r"10\.1 GiB decoded.*limit of 2 GiB.*pyramidal"):
        ImageSlide(path)
    path.write_bytes(png_of_size(16_000, 16_000))  # over Pillow's own limit, under ours
    assert ImageSlide(path).dimensions == (16_000, 16_000)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"hello", "not an image"), (None, "no such file"), (b"\x89PNG\r\n\x1a\nrubbish", "not an image")],
)
def test_what_does_not_open(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableSlideError, match=words) as caught:
        ImageSlide(path)
    assert str(caught.value).startswith(str(path))


def test_what_opens_but_does_not_decode(scene: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(scene).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    slide = ImageSlide(path)
    for _ in range(2):
        with pytest.raises(UnreadableSlideError, match="does not decode"):
            slide.read_region((0, 0), 0, (10, 10))
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UnreadableSlideError, match="not 8 bits"):
        ImageSlide(tmp_path / "deep.png")


def test_use_after_close_and_wrong_requests(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    slide = ImageSlide(tmp_path / "a.png")
    with pytest.raises(ValueError, match="level 1"):
        slide.read_region((0, 0), 1, (4, 4))
    with pytest.raises(ValueError, match="0 x 4"):
        slide.read_region((0, 0), 0, (0, 4))
    slide.close()
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        slide.read_region((0, 0), 0, (4, 4))


def test_two_opens_of_one_file_share_its_pixels(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(scene).save(path)
    (tmp_path / "link.png").symlink_to(path)
    first, second, linked = ImageSlide(path), ImageSlide(path), ImageSlide(tmp_path / "link.png")
    with ThreadPoolExecutor(8) as pool:
        slides = [first, second, linked] * 4
        found = list(pool.map(lambda slide: slide.read_region((10, 20), 0, (30, 40)), slides))
    assert all(np.array_equal(pixels, scene[20:60, 10:40]) for pixels in found)
    assert first._decoded() is second._decoded() is linked._decoded()
    first.close()
    assert np.array_equal(second.read_region((10, 20), 0, (30, 40)), scene[20:60, 10:40])

    Image.fromarray(scene[::-1]).save(path, compress_level=1)
    assert np.array_equal(ImageSlide(path).read_region((10, 20), 0, (30, 40)), scene[::-1][20:60, 10:40])
    assert np.array_equal(second.read_region((10, 20), 0, (30, 40)), scene[20:60, 10:40])


def test_pixels_are_let_go_with_the_last_slide(tmp_path: Path, scene: np.ndarray) -> None:
    import gc
    import weakref

    path = tmp_path / "a.png"
    Image.fromarray(scene).save(path)
    first, second = ImageSlide(path), ImageSlide(path)
    pixels = weakref.ref(first._decoded())
    first.close()
    gc.collect()
    assert pixels() is not None
    second.close()
    gc.collect()
    assert pixels() is None


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "LA"])
def test_bands_convert_as_the_whole(mode: str, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trident.slides.shared_pixels._BAND_PX", 7_000)
    image = Image.fromarray(scene).convert(mode)
    assert np.array_equal(rgb_pixels(image), np.asarray(image.convert("RGB")))


def test_a_large_image_is_shrunk_in_bands(tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(scene).save(tmp_path / "a.png")
    with ImageSlide(tmp_path / "a.png") as slide:
        at_once = slide.thumbnail((100, 100))
        monkeypatch.setattr("trident.slides.image._THUMBNAIL_AT_ONCE_PX", 1000)
        in_bands = slide.thumbnail((100, 100))
    assert in_bands.shape == at_once.shape
    assert np.abs(in_bands.astype(int) - at_once).mean() < 2
