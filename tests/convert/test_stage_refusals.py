"""What a conversion refuses: damaged files, names that cannot be written down, a disk that is full."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from trident.convert.plan import find_files
from trident.convert.run import convert_all
from trident.convert.stage import ConvertLayout, ConvertStage
from trident.convert.summary import write_tables
from trident.errors import SlideError, StoreError, UnreadableSlideError

Pixels = NDArray[np.uint8]
Save = Callable[[Path, Pixels], None]


def test_a_name_that_is_not_utf8(tissue: Pixels, save: Save, inputs: Path, options: Any) -> None:
    name = os.fsdecode(b"caf\xe9.svs")
    save(inputs / "a.svs", tissue)
    try:
        (inputs / "a.svs").rename(inputs / name)
    except OSError:
        pytest.skip("this file system takes no such name")
    chosen = options()
    stages = [ConvertStage(chosen, source) for source in find_files(chosen)]
    (outcome,) = convert_all(stages, num_workers=1)
    assert outcome.status == "error"
    assert "caf\\xe9.svs: its path is not UTF-8" in outcome.message
    assert "rename it" in outcome.message
    write_tables(ConvertLayout(chosen.job_dir), [outcome])
    assert (chosen.job_dir / "converted.csv").read_text() == "wsi\n"
    with (chosen.job_dir / "convert_summary.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["wsi"], row["status"]) == ("caf\\udce9.svs", "error")


def _cut_in_half(path: Path, pixels: Pixels, save: Save) -> None:
    save(path, pixels)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _bad_strips(path: Path, pixels: Pixels, save: Save) -> None:
    save(path, pixels)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)


def _bad_16_bits(path: Path, pixels: Pixels, save: Save) -> None:
    _bad_strips(path, pixels.astype(np.uint16) * 257, save)  # type: ignore[arg-type]


def _ycbcr(path: Path, pixels: Pixels, save: Save) -> None:
    Image.fromarray(pixels).convert("YCbCr").save(path)


def _several_planes(path: Path, pixels: Pixels, save: Save) -> None:
    tifffile.imwrite(path, np.stack([pixels] * 2), ome=True, photometric="rgb", tile=(128, 128))


def _several_depths(path: Path, pixels: Pixels, save: Save) -> None:
    how: dict[str, Any] = {"photometric": "rgb", "tile": (128, 128), "metadata": {"axes": "ZYXS"}}
    tifffile.imwrite(path, np.stack([pixels] * 2), ome=True, **how)


def _cut_svs(path: Path, pixels: Pixels, save: Save) -> None:
    save(path, pixels)
    path.write_bytes(path.read_bytes()[:1000])


def _grey_channels(n_channels: int, *, tiled: bool = False, **how: Any) -> Callable[[Path, Pixels, Save], None]:
    def write(path: Path, pixels: Pixels, save: Save) -> None:
        channels = np.dstack([pixels] * 2)[..., :n_channels]
        if how.get("planarconfig") == "separate":
            channels = np.ascontiguousarray(np.moveaxis(channels, 2, 0))
        pieces: dict[str, Any] = {"tile": (128, 128)} if tiled else {"rowsperstrip": 33}
        shared: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
        tifffile.imwrite(path, channels, **{**shared, **pieces, **how})

    return write


def _as(format_: str) -> Callable[[Path, Pixels, Save], None]:
    return lambda path, pixels, save: Image.fromarray(pixels).save(path, format_)


def _bad_tiles(path: Path, pixels: Pixels, save: Save) -> None:
    """An SVS whose tiles in the middle are overwritten."""
    save(path, pixels)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        middle = page.dataoffsets[len(page.dataoffsets) // 2], page.databytecounts[len(page.dataoffsets) // 2]
    content = bytearray(path.read_bytes())
    content[middle[0] : sum(middle)] = bytes(middle[1])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("a.svs", lambda path, *_: path.write_bytes(b""), "the file is empty (0 bytes)"),
        ("a.svs", lambda path, *_: path.write_text("not found\n"), "it is a text file, not a slide"),
        ("a.svs", _cut_svs, "a.svs: "),
        ("a.svs", _bad_tiles, "a.svs: "),
        ("a.svs", lambda path, *_: path.mkdir(), "it is a directory"),
        ("a.svs", lambda path, *_: path.symlink_to("gone.svs"), "a link to a file that is gone"),
        ("a.png", lambda path, *_: path.write_bytes(b""), "the file is empty (0 bytes)"),
        ("a.png", lambda path, *_: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "libvips cannot open it"),
        ("a.png", lambda path, *_: path.write_text("text"), "libvips cannot open it"),
        ("a.png", _cut_in_half, "a part of it does not decode"),
        ("a.jpg", _cut_in_half, "a part of it does not decode"),
        ("a.tif", lambda path, *_: path.write_text("text"), "its TIFF directories do not parse"),
        ("a.tif", _bad_strips, "a part of it does not decode"),
        ("a.tif", _bad_16_bits, "a part of it does not decode"),
        ("a.tif", _ycbcr, "its colours are YCbCr without JPEG compression"),
        ("a.ome.tif", _several_planes, "it has several planes"),
        ("a.ome.tif", _several_depths, "it has several planes (Z: 2)"),
        ("a.tif", _grey_channels(3), "it has 3 channels that are not marked as colours"),
        ("a.tif", _grey_channels(4, planarconfig="separate"), "it has 4 channels that are not marked as colours"),
        ("a.tif", _grey_channels(5), "write those to be shown as an 8-bit RGB TIFF"),
        ("a.tif", _grey_channels(5, tiled=True), "it has 5 channels that are not marked as colours"),
        ("a.tif", _grey_channels(3, tiled=True, planarconfig="separate"), "it has 3 channels that are not marked"),
        ("a.tif", _grey_channels(5, photometric="rgb", extrasamples=(0, 0)), "it has 5 channels"),
        ("a.tif", _grey_channels(5, tiled=True, photometric="rgb", extrasamples=(0, 0)), "it has 5 channels"),
        ("a.bmp", _as("BMP"), "neither the slide readers nor libvips take here; save it as PNG"),
        ("a.svs", _as("TIFF"), "neither the slide readers nor libvips take here; save it as PNG"),
        ("a.webp", lambda path, *_: path.write_bytes(b"RIFF\0\0\0\0WEBP" + bytes(90)), "libvips cannot open it"),
        ("a.avif", lambda path, *_: path.write_bytes(b"\0\0\0\x20ftypheic" + bytes(90)), "not a slide format"),
        ("a.jpg", lambda path, *_: path.write_bytes(b"\xff\xd8\xff\xe0"), "a.jpg: "),
    ],
)
def test_bad_files(
    name: str,
    make: Callable[[Path, Pixels, Save], object],
    says: str,
    tissue: Pixels,
    save: Save,
    inputs: Path,
    options: Any,
    convert: Any,
) -> None:
    make(inputs / name, tissue, save)
    chosen = options() if (inputs / name).is_symlink() else options({name: 0.25})
    with pytest.raises(SlideError) as caught:
        convert(chosen, name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--reader_type" not in str(caught.value)  # which is no option here
    assert str(inputs / name) in str(caught.value)
    assert not [path for path in chosen.job_dir.glob("*") if "tmp" in path.name or path.suffix in (".tiff", ".lock")]


def test_a_full_disk_is_an_error_of_the_output(
    tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file-size limit stands in for the disk: the kernel refuses the write in the same way."""
    import resource
    import signal

    save(inputs / "a.svs", tissue)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(
            StoreError, match=r"a\.tiff: cannot be written: File too large; the file is larger than this file system"
        ):
            convert(options(), "a.svs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(options().job_dir.glob("*.tiff"))


def test_a_real_slide_whose_tiles_are_damaged(shared_slides: Path, inputs: Path, options: Any, convert: Any) -> None:
    shutil.copyfile(shared_slides / "unreadable.svs", inputs / "unreadable.svs")
    chosen = options({"unreadable.svs": 0.5})
    with pytest.raises(UnreadableSlideError, match="does not decode"):
        convert(chosen, "unreadable.svs")
    assert not (chosen.job_dir / "unreadable.tiff").exists()
