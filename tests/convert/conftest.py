"""Small sources of known pixels, and ways to look at a converted file with other libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from trident.convert.options import ConvertOptions, load_options
from trident.convert.plan import find_files
from trident.convert.stage import ConvertStage
from trident.stages.base import StageResult, run_stage


@pytest.fixture(scope="session")
def libvips() -> None:
    """Skips where it is absent."""
    pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")


@pytest.fixture(scope="session")
def tissue() -> NDArray[np.uint8]:
    """A drawn slide of 700 x 520 px, which no tile size divides; (520, 700, 3) RGB."""
    from trident.demo.slide import render_demo_slide

    return render_demo_slide(seed=5, width_px=700, height_px=520)


@pytest.fixture(scope="session")
def save() -> Callable[[Path, NDArray[np.uint8]], None]:
    """Function (path, pixels): a file of these pixels, without loss or nearly so, of the kind that its name says.

    `.tif` is written in strips and `.tiff` in tiles.
    """
    import tifffile
    from PIL import Image

    from trident.demo.svs import write_svs

    def write(path: Path, pixels: NDArray[np.uint8]) -> None:
        if path.name.endswith(".ome.tif"):
            tifffile.imwrite(path, pixels, ome=True, tile=(128, 128), photometric="rgb", metadata={"axes": "YXS"})
        elif path.suffix == ".svs":
            write_svs(path, pixels, mpp=0.25, magnification=40, quality=100)
        elif path.suffix == ".tif":
            tifffile.imwrite(path, pixels, photometric="rgb", compression="deflate", rowsperstrip=33)
        elif path.suffix == ".tiff":
            tifffile.imwrite(path, pixels, photometric="rgb", compression="deflate", tile=(128, 128))
        elif path.suffix == ".jpg":
            Image.fromarray(pixels).save(path, quality=100, subsampling=0)
        else:
            Image.fromarray(pixels).save(path)

    return write


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


@pytest.fixture
def options(libvips: None, tmp_path: Path, inputs: Path) -> Callable[..., ConvertOptions]:
    """Function (mpp={file name: µm/px}, **options): options of a conversion of `inputs`."""

    def make(mpp: dict[str, object] | None = None, **more: Any) -> ConvertOptions:
        if mpp is not None:
            more["mpp_csv"] = tmp_path / "mpp.csv"
            more["mpp_csv"].write_text("wsi,mpp\n" + "".join(f"{name},{value}\n" for name, value in mpp.items()))
        return load_options(**{"input_dir": inputs, "job_dir": tmp_path / "tiffs", **more})

    return make


@pytest.fixture
def convert() -> Callable[..., StageResult]:
    """Function (options, name): converts one file in this process."""

    def run(options: ConvertOptions, name: str, overwrite_run: str | None = None) -> StageResult:
        (source,) = [one for one in find_files(options) if one.path.name == name]
        return run_stage(ConvertStage(options, source, overwrite_run))

    return run


@pytest.fixture(scope="session")
def level0() -> Callable[[Path], NDArray[np.uint8]]:
    """Function (path): level 0 as OpenSlide reads it, (height, width, 3) RGB."""
    import openslide

    def read(path: Path) -> NDArray[np.uint8]:
        with openslide.OpenSlide(path) as slide:
            return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]

    return read


@pytest.fixture(scope="session")
def psnr() -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]:
    """Function (image, other): peak signal-to-noise ratio in dB, by OpenCV."""

    def measure(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
        assert one.shape == other.shape
        return float(cv2.PSNR(np.ascontiguousarray(one), np.ascontiguousarray(other)))

    return measure
