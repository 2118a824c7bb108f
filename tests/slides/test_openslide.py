from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from trident.demo import draw_demo_slide
from trident.errors import UnreadableSlideError
from trident.slides import openslide as module
from trident.slides.openslide import OpenSlideSlide
from trident.slides.registry import open_slide

TILE_PX = 128


def damage_tile(path: Path, index: int) -> None:
    """Overwrite one level-0 tile with zeros."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * count)


def a_directory(path: Path) -> None:
    path.mkdir()


def a_dead_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere.svs")


def a_cut_slide(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


def a_plain_tiff(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, "TIFF")


def a_big_tiff_cut_in_its_header(path: Path) -> None:
    path.write_bytes(b"II+\0" + struct.pack("<HH", 8, 0))


def a_tiff_directory_that_ends_early(path: Path) -> None:
    path.write_bytes(b"MM\0*" + struct.pack(">IH", 8, 20) + bytes(30))


def writes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: None, "no such file; check the path"),
        (a_dead_link, "a link to a file that is gone"),
        (a_directory, "it is a directory"),
        (writes(b""), "the file is empty"),
        (writes(b"<html>404 not found</html>\n" * 200), "it is a text file"),
        (writes("größer\n".encode() * 500), "it is a text file"),
        (writes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50), "a plain PNG image"),
        (writes(b"\xff\xd8\xff\xe0" + b"\0" * 50), "a plain JPEG image"),
        (writes(bytes(range(256)) * 20), "not a slide format that OpenSlide knows"),
        (a_big_tiff_cut_in_its_header, "cut off"),
        (a_tiff_directory_that_ends_early, "cut off"),
        (a_plain_tiff, "use --reader_type image"),
    ],
)
@pytest.mark.parametrize("reader_type", [None, "openslide", "cucim"])
def test_what_does_not_open_is_told_apart(
    reader_type: str | None, prepare: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "slide.svs"
    prepare(path)
    with pytest.raises(UnreadableSlideError) as caught:
        open_slide(path, reader_type=reader_type)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader_type", [None, "openslide", "cucim"])
def test_a_cut_slide(reader_type: str | None, write_slide: Any) -> None:
    path = write_slide("cut.svs")
    a_cut_slide(path)
    with pytest.raises(UnreadableSlideError, match=r"cut off.*fetch it again"):
        open_slide(path, reader_type=reader_type)


@pytest.mark.parametrize(
    ("file_name", "words"),
    [("truncated.svs", "text file"), ("unopenable.tiff", "Unsupported TIFF compression: 52479"), ("README.md", "text")],
)
@pytest.mark.parametrize("reader_type", [None, "openslide", "cucim"])
def test_real_files_that_do_not_open(reader_type: str | None, file_name: str, words: str, shared_slides: Path) -> None:
    with pytest.raises(UnreadableSlideError, match=words):
        open_slide(shared_slides / file_name, reader_type=reader_type)


@pytest.mark.parametrize("reader_type", [None, "openslide"])
def test_a_real_file_that_opens_but_does_not_decode(reader_type: str | None, shared_slides: Path) -> None:
    with open_slide(shared_slides / "unreadable.svs", reader_type=reader_type) as slide:
        assert slide.mpp == 0.499
        for _ in range(2):
            with pytest.raises(UnreadableSlideError, match=r"8 x 8 px region at \(0, 0\) of level 0 does not decode"):
                slide.read_region((0, 0), 0, (8, 8))
        with pytest.raises(UnreadableSlideError, match="thumbnail does not decode"):
            slide.thumbnail((10, 10))


def test_regions_around_a_damaged_one_still_read(write_slide: Any) -> None:
    path = write_slide("a.svs")
    sound = np.asarray(openslide.OpenSlide(path).read_region((0, 0), 0, (600, 400)))[..., :3]
    damage_tile(path, 1)
    slide = OpenSlideSlide(path)
    for _ in range(3):
        with pytest.raises(UnreadableSlideError, match="fetch the file again"):
            slide.read_region((TILE_PX, 0), 0, (8, 8))
        assert np.array_equal(slide.read_region((300, 20), 0, (200, 300)), sound[20:320, 300:500])


def test_threads_that_share_a_handle_do_not_lose_sound_regions(write_slide: Any) -> None:
    path = write_slide("a.svs")
    raw = openslide.OpenSlide(path)
    corners = [(x, y) for x in range(0, 900, 64) for y in range(0, 800, 64)]
    sound = {corner: np.asarray(raw.read_region(corner, 0, (30, 30)))[..., :3] for corner in corners}
    damage_tile(path, 9)  # (128..255, 128..255)
    slide = OpenSlideSlide(path)

    def read(corner: tuple[int, int]) -> bool:
        try:
            assert np.array_equal(slide.read_region(corner, 0, (30, 30)), sound[corner])
        except UnreadableSlideError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcome = dict(zip(corners, pool.map(read, corners), strict=True))
    failed = {corner for corner, succeeded in outcome.items() if not succeeded}
    assert failed == {(x, y) for x in (128, 192) for y in (128, 192)}


def test_a_file_that_vanishes_is_an_error_of_its_own(write_slide: Any) -> None:
    path = write_slide("a.svs")
    damage_tile(path, 0)
    slide = OpenSlideSlide(path)
    path.unlink()
    with pytest.raises(UnreadableSlideError, match="no such file"):
        slide.read_region((0, 0), 0, (8, 8))


def test_closing_lets_a_read_in_progress_finish(write_slide: Any) -> None:
    slide = OpenSlideSlide(write_slide("a.svs"))
    begun = threading.Event()

    def read() -> bool:
        begun.set()
        until = time.monotonic() + 600
        try:
            while time.monotonic() < until:
                slide.read_region((0, 0), 0, (256, 256))
        except UnreadableSlideError as error:
            return "closed" in str(error)
        return False

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        begun.wait()
        slide.close()
        slide.close()
        assert all(reader.result() for reader in readers)


def test_metadata_comes_through(write_slide: Any) -> None:
    with OpenSlideSlide(write_slide("a.b.svs")) as slide:
        assert (slide.name, slide.mpp, slide.mpp_source, slide.magnification) == ("a.b", 0.25, "openslide.mpp-x", 40)


def test_metadata_whose_name_is_no_text_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    draw_demo_slide(path, seed=1, width_px=512, height_px=512, mpp=0.5)
    path.write_bytes(path.read_bytes().replace(b"|AppMag = ", b"|App\xffag = "))
    for reader_type in (None, "openslide"):
        with open_slide(path, reader_type=reader_type) as slide:
            assert slide.mpp == 0.5
            assert slide.properties["openslide.vendor"] == "aperio"
            assert not any(name.startswith("aperio.App") for name in slide.properties)


def test_a_level_too_large_to_hold_is_shrunk_in_bands(write_slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide("flat.svs", downsamples=(1,))
    with OpenSlideSlide(path) as slide:
        at_once = slide.thumbnail((120, 120))
        sizes = []
        read = slide._read
        monkeypatch.setattr(module, "THUMBNAIL_AT_ONCE_PX", 1000)
        monkeypatch.setattr("trident.slides.thumbnail._BAND_PX", 50_000)
        monkeypatch.setattr(slide, "_read", lambda *args: sizes.append(getattr(r := read(*args), "size", None)) or r)
        in_bands = slide.thumbnail((120, 120))
    assert in_bands.shape == at_once.shape
    assert np.abs(in_bands.astype(int) - at_once).mean() < 1.5
    bands = [size for size in sizes if size is not None]
    assert len(bands) > 10
    assert max(width * height for width, height in bands) <= 50_000
    assert sum(height for _, height in bands) == 830
