from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trident.errors import MissingMppError, NotAvailableError, SettingsError, UnreadableSlideError
from trident.slides import eligibility
from trident.slides.registry import (
    READER_TYPES,
    SLIDE_EXTENSIONS,
    default_reader_type,
    open_slide,
    slide_extension,
    slide_name,
)


@pytest.mark.parametrize(
    ("path", "name", "extension"),
    [
        ("a/b/slide.svs", "slide", ".svs"),
        ("slide.one.SVS", "slide.one", ".SVS"),
        ("slide.ome.tif", "slide", ".ome.tif"),
        ("slide.OME.Tiff", "slide", ".OME.Tiff"),
        ("x/slide.ome.zarr", "slide", ".ome.zarr"),
        ("slide.ome.png", "slide.ome", ".png"),
        (".ome.tif", ".ome", ".tif"),
        ("x/slide.zarr", "slide", ".zarr"),
        ("x/slide.ome.zarr/0", "slide_0", ""),
        ("slide.zarr/a/1", "slide_a_1", ""),
        ("1.2.840.10008", "1.2.840.10008", ""),
        ("slide", "slide", ""),
    ],
)
def test_names(path: str, name: str, extension: str) -> None:
    assert slide_name(path) == name
    assert slide_name(Path(path)) == name
    assert slide_extension(path) == extension


def test_the_registry_and_discovery_load_no_image_library() -> None:
    code = (
        "import sys, trident.slides.registry, trident.slides.discovery, trident.slides.metadata;"
        "libraries = 'numpy PIL cv2 openslide tifffile cucim pandas pydicom zarr'.split();"
        "print([m for m in libraries if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_unknown_reader_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"'bioformats'.*openslide, image, cucim"):
        open_slide("slide.svs", reader_type="bioformats")


@pytest.mark.parametrize("reader_type", READER_TYPES)
def test_every_reader_says_in_one_line_that_a_file_is_missing(reader_type: str, tmp_path: Path) -> None:
    with pytest.raises((UnreadableSlideError, NotAvailableError)) as caught:
        open_slide(tmp_path / "slide.svs", reader_type=reader_type)
    assert str(caught.value).startswith(f"{tmp_path}/slide.svs: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader_type", READER_TYPES)
def test_every_reader_refuses_a_file_of_another_kind(reader_type: str, tmp_path: Path) -> None:
    if reader_type == "cucim":
        pytest.importorskip("cucim")
    path = tmp_path / "slide.bin"
    path.write_bytes(bytes(range(256)) * 100)
    with pytest.raises((UnreadableSlideError, NotAvailableError)) as caught:
        open_slide(path, reader_type=reader_type)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file_name", "reader_type"),
    [
        ("a.sdpc", "sdpc"),
        ("a.CZI", "czi"),
        ("a.ome.zarr", "omezarr"),
        ("A.OME.ZARR", "omezarr"),
        ("a.zarr", "omezarr"),
        ("a.zarr/0", "omezarr"),
        ("a.png", "image"),
        ("a.ome.tif", "openslide"),
        ("a.dcm", "openslide"),
        ("folder", "openslide"),
    ],
)
def test_the_reader_of_an_extension(file_name: str, reader_type: str) -> None:
    assert default_reader_type(Path("/nowhere") / file_name) == reader_type
    if "." in file_name and "/" not in file_name:
        assert slide_extension(file_name).lower() in SLIDE_EXTENSIONS


@pytest.mark.parametrize("extension", ["png", "PNG", "jpg", "jpeg"])
def test_plain_images_go_to_the_image_reader(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"tile.{extension}"
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(path)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.reader_type, slide.mpp, slide.mpp_source, slide.magnification) == ("image", 0.5, "given", 20)


@pytest.mark.parametrize(("codec", "default"), [("jpeg", "cucim"), ("jpeg2000", "cucim"), ("deflate", "openslide")])
def test_the_default_is_cucim_where_it_may_be(codec: str, default: str, write_slide: Any) -> None:
    pytest.importorskip("cucim")
    with open_slide(write_slide("a.svs", codec=codec)) as slide:
        assert slide.reader_type == default
        assert slide.notes == []


def test_without_cucim_the_default_is_openslide(write_slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cucim", None)
    path = write_slide("a.svs")
    assert not eligibility.cucim_is_importable()
    assert open_slide(path).reader_type == "openslide"
    with pytest.raises(NotAvailableError, match="use --reader_type openslide"):
        open_slide(path, reader_type="cucim")


def test_options_reach_the_reader(write_slide: Any) -> None:
    path = write_slide("a.svs", mpp="")
    with open_slide(path, reader_type="openslide") as slide:
        assert slide.mpp_or_none is None
        with pytest.raises(MissingMppError, match="--custom_mpp_keys"):
            _ = slide.mpp
    with open_slide(path, reader_type="openslide", custom_mpp_keys=["aperio.AppMag"], name="other") as slide:
        assert (slide.mpp, slide.mpp_source, slide.name) == (40.0, "aperio.AppMag", "other")
    with open_slide(write_slide("b.svs"), mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source, slide.name) == (0.5, "given", "b")
        assert len(slide.notes) == 1
    with pytest.raises(MissingMppError, match="not a positive number"):
        open_slide(path, mpp=-0.5)
