from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from trident.errors import UnreadableSlideError
from trident.slides.registry import open_slide

pytest.importorskip("cucim")
from trident.slides.cucim import CuCimSlide

TILE_PX = 128


def raw_pixels(path: Path, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(openslide.OpenSlide(path).read_region(location, level, size))[..., :3]


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000"])
def test_cucim_decodes_where_it_may_and_only_there(codec: str, write_slide: Any) -> None:
    with CuCimSlide(write_slide("a.svs", codec=codec)) as slide:
        assert slide.level_downsamples[1] == pytest.approx(4, abs=0.02)
        cases = {
            ((7, 13), 0, (50, 60)): True,
            ((-7, 800), 0, (50, 60)): True,
            ((2000, 0), 0, (50, 60)): True,
            ((0, 0), 2, (50, 60)): True,
            ((80, 80), 2, (50, 60)): False,  # its downsample is 8.0..., so this is a fraction of a pixel
        }
        for (location, level, size), fast in cases.items():
            assert (slide._read_fast(location, level, size) is not None) is fast, (location, level)


def test_a_whole_downsample_is_read_fast_at_whole_positions(write_slide: Any) -> None:
    path = write_slide("a.svs", downsamples=(1, 2, 5))
    with CuCimSlide(path) as slide:
        assert slide.level_downsamples == (1.0, 2.0, 5.0)
        for level, x, fast in [(1, 64, True), (1, 65, False), (2, 65, True), (2, 66, False), (2, -65, True)]:
            size = (70, 90)
            pixels = slide._read_fast((x, 10), level, size)
            assert (pixels is not None) is fast, (level, x)
            expected = raw_pixels(path, (x, 10), level, size)
            assert np.array_equal(slide.read_region((x, 10), level, size), expected)


@pytest.mark.parametrize("source", ["synthetic", "boxes.tiff"])
def test_forced_on_a_file_it_may_not_read(source: str, request: pytest.FixtureRequest) -> None:
    if source == "synthetic":
        path = request.getfixturevalue("write_slide")("deflate.tiff", codec="deflate")
    else:
        path = request.getfixturevalue("shared_slides") / source
    # In a process of its own: cuCIM would take this one down.
    code = (
        "import sys; from trident.slides.registry import open_slide\n"
        "from trident.errors import UnreadableSlideError\n"
        "try: open_slide(sys.argv[1], reader_type='cucim')\n"
        "except UnreadableSlideError as error: print(error)\n"
        "slide = open_slide(sys.argv[1]); slide.read_region((0, 0), 0, (64, 64)); print(slide.reader_type)"
    )
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    message, reader = result.stdout.splitlines()
    assert "compression 8" in message
    assert "use --reader_type openslide" in message
    assert reader == "openslide"


def test_forced_on_a_format_it_does_not_know(shared_slides: Path) -> None:
    with pytest.raises(UnreadableSlideError, match=r"cuCIM reads \.svs, \.tif, \.tiff files, not \.dcm"):
        open_slide(shared_slides / "boxes_0.dcm", reader_type="cucim")


def tile_place(path: Path, index: int, level_page: int = 0) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level_page]
        return page.dataoffsets[index], page.databytecounts[index]


def change_tile(path: Path, index: int, change: Callable[[bytearray], None]) -> None:
    offset, count = tile_place(path, index)
    with path.open("r+b") as file:
        file.seek(offset)
        data = bytearray(file.read(count))
        change(data)
        file.seek(offset)
        file.write(data[:count])


def zero(data: bytearray) -> None:
    data[:] = bytes(len(data))


def zero_the_second_half(data: bytearray) -> None:
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)


def zero_the_middle(data: bytearray) -> None:
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)


def fill_with_noise(data: bytearray) -> None:
    data[700:] = np.random.default_rng(0).integers(0, 256, len(data) - 700, dtype=np.uint8).tobytes()


def break_the_header(data: bytearray) -> None:
    data[:20] = bytes(20)


def break_the_tables(data: bytearray) -> None:
    at = data.index(b"\xff\xc4")
    data[at + 5 : at + 12] = b"\xee" * 7


def end_it_early(data: bytearray) -> None:
    # Rows of blocks are missing, and the stream still has the look of a whole one.
    at = data.index(b"\xff\xda") + 14
    coded = data[at:-2]
    data[at:] = coded[: len(coded) * 9 // 10].rstrip(b"\xff") + b"\xff\xd9"
    data.extend(b"\0" * 64)


@pytest.mark.parametrize(
    "change",
    [zero, zero_the_second_half, zero_the_middle, fill_with_noise, break_the_header, break_the_tables, end_it_early],
)
def test_a_damaged_jpeg_tile_is_an_error_and_its_neighbours_read(
    change: Callable[[bytearray], None], write_slide: Any
) -> None:
    path = write_slide("a.svs")
    expected = raw_pixels(path, (300, 20), 0, (200, 300))
    index = 10  # x 256..383, y 128..255
    change_tile(path, index, change)
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(path).read_region((256, 128), 0, (TILE_PX, TILE_PX))
    with CuCimSlide(path) as slide:
        for _ in range(2):
            with pytest.raises(UnreadableSlideError, match=r"region at \(256, 128\) of level 0 does not decode"):
                slide.read_region((256, 128), 0, (TILE_PX, TILE_PX))
        assert slide._read_fast((400, 128), 0, (64, 64)) is not None
        assert np.array_equal(slide.read_region((400, 20), 0, (100, 300)), expected[:, 100:])


def remove_tile(path: Path, index: int) -> None:
    """State that a level-0 tile has no bytes in the file, as sparse writers do."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        counts = list(tag.value)
        counts[index] = 0
        tag.overwrite(counts)


def test_a_tile_that_the_file_does_not_hold_is_black(write_slide: Any) -> None:
    path = write_slide("a.tiff", vendor="generic")
    remove_tile(path, 10)
    expected = raw_pixels(path, (200, 100), 0, (300, 200))
    with CuCimSlide(path) as slide:
        assert slide._read_fast((400, 128), 0, (64, 64)) is not None
        assert np.array_equal(slide.read_region((200, 100), 0, (300, 200)), expected)
        assert not slide.read_region((256, 128), 0, (TILE_PX, TILE_PX)).any()


def test_aperio_slides_with_missing_tiles_are_left_to_openslide(write_slide: Any) -> None:
    path = write_slide("a.svs", downsamples=(1, 2))
    remove_tile(path, 10)
    with pytest.raises(UnreadableSlideError, match="1 of its tiles are not in the file"):
        CuCimSlide(path)
    with open_slide(path) as slide:
        assert slide.reader_type == "openslide"
        assert any("1 of its tiles" in note for note in slide.notes)


def test_a_damaged_jpeg_2000_tile_is_an_error(write_slide: Any) -> None:
    path = write_slide("a.svs", codec="jpeg2000")
    change_tile(path, 10, zero)
    with CuCimSlide(path) as slide:
        with pytest.raises(UnreadableSlideError, match="does not decode"):
            slide.read_region((256, 128), 0, (TILE_PX, TILE_PX))
        assert any("cuCIM failed on at least one region" in note for note in slide.notes)
        assert slide._read_fast((400, 128), 0, (64, 64)) is not None


def test_pixels_that_differ_hand_the_slide_to_openslide(write_slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide("a.svs")
    decode = CuCimSlide._decode

    def one_level_off(self: CuCimSlide, *args: Any) -> np.ndarray | None:
        pixels = decode(self, *args)
        return None if pixels is None else pixels ^ 1

    monkeypatch.setattr(CuCimSlide, "_decode", one_level_off)
    with pytest.raises(UnreadableSlideError, match="not OpenSlide's; use --reader_type openslide"):
        open_slide(path, reader_type="cucim")
    with open_slide(path) as slide:
        assert slide.reader_type == "openslide"
        assert any("not cuCIM" in note for note in slide.notes)
        assert np.array_equal(slide.read_region((0, 0), 0, (99, 99)), raw_pixels(path, (0, 0), 0, (99, 99)))


def test_a_failing_decoder_hands_the_region_to_openslide(write_slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide("a.svs")

    class Failing:
        def read_region(self, *args: Any) -> None:
            raise RuntimeError("out of luck")

    with CuCimSlide(path) as slide:
        slide._cucim = Failing()
        for _ in range(3):
            assert np.array_equal(slide.read_region((9, 9), 0, (99, 99)), raw_pixels(path, (9, 9), 0, (99, 99)))
        assert [note for note in slide.notes if "out of luck" in note] == slide.notes
        assert len(slide.notes) == 1


def test_use_after_close(write_slide: Any) -> None:
    slide = CuCimSlide(write_slide("a.svs"))
    slide.close()
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        slide.read_region((0, 0), 0, (8, 8))
