"""What a file that no reader takes is answered with; what OpenSlide itself reports is in test_openslide.py."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from trident.errors import UnreadableSlideError
from trident.slides.registry import open_slide


def message(path: Path) -> str:
    with pytest.raises(UnreadableSlideError) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("folder", ["plain", "with blank", "it's;rm"])
def test_a_plain_tiff_is_answered_with_the_command_that_converts_it(folder: str, tmp_path: Path) -> None:
    path = tmp_path / folder / "a.tif"
    path.parent.mkdir()
    Image.new("RGB", (80, 60)).save(path)
    command = shlex.split(message(path).split("`")[1])
    assert command[:2] == ["trident", "convert"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options == {
        "--input_dir": str(path.parent),
        "--job_dir": f"{path.parent}_tiff",
        "--mpp_csv": "mpp.csv",
        "--downscale_by": "1",
        "--num_workers": "1",
    }


def test_that_command_works(tmp_path: Path, run_program: Callable[..., Any]) -> None:
    pytest.importorskip("pyvips", exc_type=(ImportError, OSError))
    path = tmp_path / "slides" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, np.full((300, 400, 3), 77, np.uint16), photometric="rgb", rowsperstrip=16)
    command = shlex.split(message(path).split("`")[1])
    (tmp_path / "mpp.csv").write_text("wsi,mpp\na.tif,0.5\n")
    done = run_program(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    (converted,) = (tmp_path / "slides_tiff").glob("*.tif*")
    with open_slide(converted) as slide:
        assert (slide.dimensions, slide.mpp) == ((400, 300), pytest.approx(0.5))


def test_a_tiff_under_another_name_and_one_of_unknown_compression(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    Image.new("RGB", (80, 60)).save(path, "TIFF")
    assert "name it .tif and run `trident convert" in message(path)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(52479)
    assert "another compression than 52479" in message(path)
    assert "trident convert" not in message(path)


@pytest.mark.parametrize("kind", ["JPEG2000", "WEBP", "BMP", "GIF"])
def test_other_images_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    Image.new("RGB", (80, 60)).save(path, kind)
    assert f"it is a {kind} image, not a slide; use --reader_type image" in message(path)
    assert open_slide(path, reader_type="image").dimensions == (80, 60)
