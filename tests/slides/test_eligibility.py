from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tifffile
from PIL import Image

from trident.slides.eligibility import reason_against_cucim, tiled_pages


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000"])
def test_pages_are_the_pyramid_and_their_tiles_are_found(codec: str, write_slide: Any) -> None:
    path = write_slide("a.svs", codec=codec)
    assert reason_against_cucim(path) is None
    pages = tiled_pages(path)
    assert [page.size for page in pages] == [(1000, 830), (250, 207), (124, 103)]
    assert pages[0].tiles_across == 8
    assert len(pages[0].offsets) == 8 * 7
    content = path.read_bytes()
    start = {"jpeg": b"\xff\xd8", "jpeg2000": b"\xff\x4f"}[codec]
    for page in pages:
        assert all(content[offset : offset + 2] == start for offset in page.offsets)


@pytest.mark.parametrize("extension", ["svs", "tif"])
def test_what_cucim_may_not_read(extension: str, write_slide: Any, tmp_path: Path) -> None:
    assert "compression 8" in (reason_against_cucim(write_slide("d.svs", codec="deflate")) or "")
    Image.new("RGB", (20, 20)).save(tmp_path / f"plain.{extension}", "TIFF")
    assert reason_against_cucim(tmp_path / f"plain.{extension}") == "it has no tiled page"
    (tmp_path / f"text.{extension}").write_text("II hello")
    assert "do not parse" in (reason_against_cucim(tmp_path / f"text.{extension}") or "")
    assert "do not parse" in (reason_against_cucim(tmp_path / f"missing.{extension}") or "")
    assert "do not parse" in (reason_against_cucim(tmp_path) or "") or tmp_path.suffix == ""


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("PhotometricInterpretation", 5, "photometric interpretation"),
        ("PlanarConfiguration", 2, "not 8-bit RGB"),
        ("SamplesPerPixel", 4, "not 8-bit RGB"),
        ("Compression", 6, "compression 6"),
    ],
)
def test_one_wrong_level_is_enough(tag: str, value: int, words: str, write_slide: Any) -> None:
    path = write_slide("a.svs")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[2].tags[tag].overwrite(value)
    assert words in (reason_against_cucim(path) or "")


@pytest.mark.parametrize(
    ("length_px", "words"), [(500, "lists 56 tiles where it needs 32"), (2000, "claim what cannot be")]
)
def test_a_file_with_too_many_or_too_few_tiles(length_px: int, words: str, write_slide: Any) -> None:
    path = write_slide("a.svs")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageLength"].overwrite(length_px)
    assert words in (reason_against_cucim(path) or "")


def test_other_extensions_are_not_opened(tmp_path: Path) -> None:
    assert "not .ndpi" in (reason_against_cucim(tmp_path / "missing.ndpi") or "")
