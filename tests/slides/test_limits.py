from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from trident.demo import draw_demo_slide
from trident.errors import UnreadableSlideError
from trident.slides import limits
from trident.slides.eligibility import reason_against_cucim
from trident.slides.limits import lists_are_exact, require_plausible_tiff, require_size
from trident.slides.registry import open_slide

WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH, OFFSETS, COUNTS = 256, 257, 322, 323, 324, 325


@pytest.fixture(params=[False, True], ids=["classic", "big"])
def sound(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiled TIFF of one page, 512 x 384 px."""
    path = tmp_path / "slide.tif"
    pixels = np.random.default_rng(1).integers(0, 256, (384, 512, 3), np.uint8) & 0xF0
    tifffile.imwrite(path, pixels, tile=(128, 128), bigtiff=request.param, photometric="rgb", compression="zlib")
    return path


def set_tag(path: Path, tag: int, value: int, *, field: str = "value") -> None:
    """Change one number (as 32 bits), a count or the place of the values of a tag of the first page."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[0].tags[tag]  # type: ignore[union-attr]
        at, order, is_big = found.offset, tiff.byteorder, tiff.is_bigtiff
        first = found.valueoffset
    wide = order + ("Q" if is_big else "I")
    data = bytearray(path.read_bytes())
    if field == "value":
        struct.pack_into(order + "H", data, at + 2, 4)
        struct.pack_into(order + "I", data, at + (12 if is_big else 8), value)
    elif field == "count":
        struct.pack_into(wide, data, at + 4, value)
    else:
        struct.pack_into(order + "I", data, first, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("tag", "value", "field", "words"),
    [
        (WIDTH, limits.MAX_SIDE_PX + 1, "value", "more than 1,048,576 px a side"),
        (LENGTH, (1 << 32) - 1, "value", "more than 1,048,576 px a side"),
        (LENGTH, 1_048_576, "value", "cannot hold"),
        (TILE_WIDTH, 1 << 20, "value", "its tiles claim 1,048,576 x 128 px"),
        (TILE_LENGTH, (1 << 32) - 16, "value", "its tiles claim"),
        (TILE_WIDTH, 1 << 20, "value", "written with smaller tiles .with libtiff: `tiffcp -t -w 256 -l 256`."),
        (TILE_WIDTH, 0, "value", "its tiles claim 0 x 128 px, which no TIFF has"),
        (TILE_LENGTH, 15, "value", "its tiles claim 128 x 15 px, which no TIFF has"),
        (OFFSETS, 100_000_000, "count", "list of tiles reaches beyond the end"),
        (COUNTS, 1_000_000, "count", "list of tiles reaches beyond the end"),
        (LENGTH, 768, "value", "it lists 12 tiles where its size needs 24; it is damaged"),
        (OFFSETS, 11, "count", "it lists 11 tiles where its size needs 12; it is damaged"),
        (COUNTS, (1 << 31) - 1, "first", "one of its tiles claims 2,147,483,647 bytes"),
    ],
)
def test_claims_beyond_the_limits_are_refused_before_openslide_sees_them(
    sound: Path, tag: int, value: int, field: str, words: str
) -> None:
    require_plausible_tiff(sound)
    set_tag(sound, tag, value, field=field)
    with pytest.raises(UnreadableSlideError, match=words):
        require_plausible_tiff(sound)
    for reader_type in (None, "openslide", "cucim"):
        with pytest.raises(UnreadableSlideError, match=words):
            open_slide(sound, reader_type=reader_type, mpp=0.5)


def loop(path: Path, target: int) -> None:
    """Make the pointer to a next directory, which ends the chain, lead to `target` (0: the first)."""
    with tifffile.TiffFile(path) as tiff:
        order, is_big, first = tiff.byteorder, tiff.is_bigtiff, tiff.pages[0].offset  # type: ignore[union-attr]
        tags = len(tiff.pages[0].tags)  # type: ignore[union-attr]
    at = first + (8 + 20 * tags if is_big else 2 + 12 * tags)
    data = bytearray(path.read_bytes())
    struct.pack_into(order + ("Q" if is_big else "I"), data, at, target or first)
    path.write_bytes(data)


def test_directories_in_a_loop_are_refused(sound: Path) -> None:
    loop(sound, 0)
    assert reason_against_cucim(sound) == "its TIFF directories claim what cannot be"
    with pytest.raises(UnreadableSlideError, match="form a loop"):
        open_slide(sound, mpp=0.5)


def test_more_directories_than_any_slide_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "many.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(5):
            writer.write(np.zeros((16, 16), np.uint8))
    require_plausible_tiff(path)
    monkeypatch.setattr(limits, "MAX_DIRECTORIES", 4)
    with pytest.raises(UnreadableSlideError, match="are more than 4"):
        require_plausible_tiff(path)


@pytest.mark.parametrize("content", [b"", b"II", b"II*\0", b"MM\0*" + b"\xff" * 40, b"II+\0\x08\0\0\0", b"hello " * 40])
def test_what_is_no_tiff_passes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    require_plausible_tiff(path)


def test_a_chain_that_leads_nowhere_is_left_to_the_reader(sound: Path) -> None:
    loop(sound, 12_345_678)
    require_plausible_tiff(sound)


@pytest.mark.parametrize(
    ("size", "size_bytes", "passes"),
    [
        ((16_384, 16_384), 1, True),
        ((16_384, 16_385), 1, False),
        ((100_000, 100_000), 10_000_000, True),
        ((100_000, 100_000), 9_000_000, False),
        ((100_000, 100_000), None, True),
        ((limits.MAX_SIDE_PX, 1), None, True),
        ((1, limits.MAX_SIDE_PX + 1), None, False),
    ],
)
def test_sizes(tmp_path: Path, size: tuple[int, int], size_bytes: int | None, passes: bool) -> None:
    if passes:
        require_size(tmp_path, [size], size_bytes=size_bytes)
    else:
        with pytest.raises(UnreadableSlideError, match=f"{size[0]:,} x {size[1]:,} px"):
            require_size(tmp_path, [size, (1, 1)], size_bytes=size_bytes)


@pytest.mark.parametrize("size", [(101, 1), (1, 101)])
def test_a_level_larger_than_level_0_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableSlideError, match=f"its level 1 claims {size[0]} x {size[1]} px"):
        require_size(tmp_path, [(100, 100), size])


def test_real_slides_pass(shared_slides: Path) -> None:
    for path in shared_slides.glob("*.svs"):
        require_plausible_tiff(path)


@pytest.fixture
def aperio(tmp_path: Path) -> Path:
    """A drawn slide: tiled level 0, thumbnail of one strip, tiled level 1."""
    draw_demo_slide(tmp_path / "a.svs", seed=1, width_px=1024, height_px=768)
    return tmp_path / "a.svs"


def tag_at(path: Path, page: int, tag: int) -> int:
    """Where the entry of a tag stands."""
    with tifffile.TiffFile(path) as tiff:
        return int(tiff.pages[page].tags[tag].offset)  # type: ignore[union-attr]


STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_COUNTS, DESCRIPTION = 273, 278, 279, 270


@pytest.mark.parametrize("count", [2, 4096, 1 << 20, (1 << 31) - 1, (1 << 32) - 1])
@pytest.mark.parametrize(
    ("page", "tag", "named"),
    [
        (1, STRIP_OFFSETS, STRIP_OFFSETS),
        (1, STRIP_COUNTS, STRIP_COUNTS),
        (1, DESCRIPTION, STRIP_OFFSETS),  # a second list
        (0, DESCRIPTION, STRIP_OFFSETS),  # strips and tiles
    ],
)
def test_cucim_gets_no_file_whose_lists_are_of_another_length(
    aperio: Path, page: int, tag: int, named: int, count: int
) -> None:
    """cuCIM copies as many numbers as are claimed, from beyond its memory: SIGSEGV, or std::bad_alloc."""
    assert lists_are_exact(aperio)
    assert reason_against_cucim(aperio) is None
    data = bytearray(aperio.read_bytes())
    struct.pack_into("<HHI", data, tag_at(aperio, page, tag), named, 4, count)
    aperio.write_bytes(data)
    assert not lists_are_exact(aperio)
    assert reason_against_cucim(aperio) is not None
    with open_slide(aperio, mpp=0.5) as slide:  # in this process, which lives on
        assert slide.reader_type == "openslide"
        assert slide.read_region((0, 0), 0, (64, 64)).any()


def test_strips_are_counted_by_their_rows_and_planes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.zeros((3, 100, 50), np.uint8)
    for planar, rows in (("separate", 7), ("separate", 100), ("contig", 33), ("contig", 200)):
        image = pixels if planar == "separate" else np.moveaxis(pixels, 0, -1)
        tifffile.imwrite(path, image, photometric="rgb", planarconfig=planar, rowsperstrip=rows)
        assert lists_are_exact(path), (planar, rows)
    set_tag(path, ROWS_PER_STRIP, 50)
    assert not lists_are_exact(path)
    set_tag(path, ROWS_PER_STRIP, 0)
    assert not lists_are_exact(path)


def test_tile_lists_that_come_twice_are_both_checked(aperio: Path) -> None:
    data = bytearray(aperio.read_bytes())
    struct.pack_into("<HHI", data, tag_at(aperio, 0, DESCRIPTION), OFFSETS, 4, (1 << 31) - 1)
    aperio.write_bytes(data)
    with pytest.raises(UnreadableSlideError, match="list of tiles reaches beyond the end"):
        require_plausible_tiff(aperio)


@pytest.mark.parametrize(("compression", "is_eligible"), [(None, True), ("zlib", False)])
def test_cucim_gets_no_file_with_a_label_in_a_codec_that_brings_it_down(
    tmp_path: Path, compression: str | None, is_eligible: bool
) -> None:
    path = tmp_path / "a.svs"
    draw_demo_slide(path, seed=1, width_px=512, height_px=512)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    tifffile.imwrite(path, pixels, append=True, compression=compression, predictor=compression is not None)
    reason = reason_against_cucim(path)
    assert reason is None if is_eligible else reason is not None and "label or thumbnail has compression" in reason
    with open_slide(path, mpp=0.5) as slide:  # in this process, which lives on
        assert is_eligible or slide.reader_type == "openslide"


def test_cucim_gets_no_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    even = tmp_path / "a.svs"
    draw_demo_slide(even, seed=1, width_px=512, height_px=512)
    odd = even.with_name("\udcff.svs")
    odd.write_bytes(even.read_bytes())
    assert reason_against_cucim(even) is None
    assert "not UTF-8" in str(reason_against_cucim(odd))
    with open_slide(odd, mpp=0.5) as slide:
        assert slide.reader_type == "openslide"
        assert slide.read_region((0, 0), 0, (8, 8)).shape == (8, 8, 3)
