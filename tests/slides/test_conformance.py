"""Every reader gives the pixels that its file holds, by OpenSlide's rules: raw, alpha left out, black beyond the slide.

What OpenSlide reads is compared with OpenSlide itself. Of other formats the tests write the file with the format's own
library and compute each region from the arrays that went in.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from trident.slides.base import Slide
from trident.slides.registry import open_slide

Request = tuple[tuple[int, int], int, tuple[int, int]]

REAL = ["CMU-1-Small-Region.svs", "TCGA-CR-7395-no-mpp.svs", "boxes.tiff", "boxes_0.dcm"]
SYNTHETIC = ["jpeg", "jpeg2000", "deflate"]
NOT_FOR_CUCIM = ("boxes.tiff", "boxes_0.dcm", "deflate")
"""That these are refused is tested in test_cucim.py."""

CASES = [
    *((reader, source) for reader in ("openslide", "cucim") for source in (*REAL, *SYNTHETIC)),
    ("openslide", "dicom"),
    ("openslide", "lzw"),
    ("openslide", "ome"),
    ("image", "png"),
    ("omezarr", "0.4"),
    ("omezarr", "0.5"),
    ("omezarr", "sharded"),
    ("czi", "czi"),
    ("sdpc", "sdpc"),
]
CASES = [(reader, source) for reader, source in CASES if reader != "cucim" or source not in NOT_FOR_CUCIM]


class Truth(Protocol):
    """What a slide should be."""

    level_dimensions: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]

    def region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """RGB pixels."""

    def thumbnail(self, max_size: tuple[int, int]) -> np.ndarray:
        """RGB pixels."""

    def agrees(self, pixels: np.ndarray, request: Request) -> bool:
        """Whether the pixels of a region are right."""


class OpenSlideTruth:
    def __init__(self, path: Path, *, is_rounded: bool) -> None:
        self.raw = openslide.OpenSlide(path)
        self.level_dimensions, self.level_downsamples = self.raw.level_dimensions, self.raw.level_downsamples
        self.is_rounded = is_rounded

    def region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(self.raw.read_region(location, level, size))[..., :3]

    def thumbnail(self, max_size: tuple[int, int]) -> np.ndarray:
        return np.asarray(self.raw.get_thumbnail(max_size))

    def agrees(self, pixels: np.ndarray, request: Request) -> bool:
        """Equal bit by bit, but for cuCIM's JPEG 2000: there a value in a hundred thousand may be off by one."""
        expected = self.region(*request)
        if not self.is_rounded:
            return np.array_equal(pixels, expected)
        difference = np.abs(pixels.astype(int) - expected)
        return (
            pixels.shape == expected.shape
            and difference.max() <= 1
            and np.count_nonzero(difference) <= 1 + 1e-5 * pixels.size
        )


@dataclass
class ArrayTruth:
    """Levels whose pixels are known; between pixels they are interpolated in floating point."""

    levels: dict[int, np.ndarray]
    lines_off: int = 0
    """Rows or columns of a coarser level that may be wrong: libCZI's, at the edges of its tiles."""

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        return tuple((image.shape[1], image.shape[0]) for image in self.levels.values())

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return tuple(float(downsample) for downsample in self.levels)

    def region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        downsample, image = list(self.levels.items())[level]
        height, width = image.shape[:2]
        x, y = location[0] / downsample, location[1] / downsample
        columns, rows = np.arange(size[0]) + math.floor(x), np.arange(size[1]) + math.floor(y)
        total, covered = np.zeros((size[1], size[0], 3)), np.zeros((size[1], size[0], 1))
        for right, share_x in ((0, 1 - x % 1), (1, x % 1)):
            for down, share_y in ((0, 1 - y % 1), (1, y % 1)):
                at_x, at_y = columns + right, rows + down
                inside = np.outer((at_y >= 0) & (at_y < height), (at_x >= 0) & (at_x < width))[..., np.newaxis]
                part = image[np.clip(at_y, 0, height - 1)][:, np.clip(at_x, 0, width - 1)]
                total += part * inside * (share_x * share_y)
                covered += inside * (share_x * share_y)
        mean = np.divide(total, covered, out=np.zeros_like(total), where=covered > 0)
        return np.minimum(255, np.floor(mean * 256 / 255 + 1e-6)).astype(np.uint8)

    def thumbnail(self, max_size: tuple[int, int]) -> np.ndarray:
        width, height = self.level_dimensions[0]
        wanted = max(width / max_size[0], height / max_size[1])
        image = Image.fromarray(self.levels[max(downsample for downsample in self.levels if downsample <= wanted)])
        image.thumbnail(max_size, Image.Resampling.LANCZOS)
        return np.asarray(image)

    def agrees(self, pixels: np.ndarray, request: Request) -> bool:
        (x, y), level, size = request
        expected = self.region(*request)
        downsample = list(self.levels)[level]
        tolerance = 0 if x % downsample == 0 and y % downsample == 0 else 1
        if pixels.shape != expected.shape:
            return False
        n_wrong = np.count_nonzero((np.abs(pixels.astype(int) - expected) > tolerance).any(axis=2))
        return n_wrong <= (self.lines_off * max(size) if level else 0)


@dataclass
class Case:
    slide: Slide
    truth: Truth


@pytest.fixture(params=CASES, ids="-".join)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Truth]:
    """(reader, path, truth)"""
    reader, name = request.param
    if reader == "cucim":
        pytest.importorskip("cucim")
    if name in REAL:
        path = Path(request.getfixturevalue("shared_slides")) / name
        return reader, path, OpenSlideTruth(path, is_rounded=reader == "cucim" and "TCGA" in name)
    if name in SYNTHETIC:
        write: Callable[..., Path] = request.getfixturevalue("write_slide")
        path = write(f"{name}.svs", codec=name)
        return reader, path, OpenSlideTruth(path, is_rounded=reader == "cucim" and name == "jpeg2000")
    levels: dict[int, np.ndarray] = request.getfixturevalue("scene_levels")
    if name == "lzw":
        vips = pytest.importorskip("pyvips", exc_type=(ImportError, OSError))
        path = tmp_path / "slide.tif"
        image = vips.Image.new_from_array(levels[1])
        image.tiffsave(str(path), tile=True, pyramid=True, compression="lzw", predictor="none")
        return reader, path, OpenSlideTruth(path, is_rounded=False)
    if name == "ome":
        write_ome(tmp_path / "slide.ome.tif", levels)
        return reader, tmp_path / "slide.ome.tif", ArrayTruth({1: levels[1]})  # OpenSlide sees no level in SubIFDs
    if name == "dicom":
        path = request.getfixturevalue("write_dicom")(tmp_path / "series", levels)
        return reader, path, OpenSlideTruth(path / "level-1.dcm", is_rounded=False)
    if name == "png":
        path = tmp_path / "slide.png"
        Image.fromarray(levels[1]).save(path)
        return reader, path, ArrayTruth({1: levels[1]})
    if name == "czi":
        return reader, request.getfixturevalue("write_czi")(tmp_path / "slide.czi", levels), ArrayTruth(levels, 4)
    if name == "sdpc":
        return reader, request.getfixturevalue("write_sdpc")(tmp_path / "slide.sdpc", levels), ArrayTruth(levels)
    write_omezarr: Callable[..., Path] = request.getfixturevalue("write_omezarr")
    is_sharded = name == "sharded"
    path = write_omezarr(
        tmp_path / "slide.ome.zarr",
        levels,
        version="0.5" if is_sharded else name,
        axes="cyx" if is_sharded else "tczyx",
        sharded=is_sharded,
        inside="0" if name == "0.4" else "",
    )
    return reader, path, ArrayTruth(levels)


def write_ome(path: Path, levels: dict[int, np.ndarray]) -> None:
    """An OME-TIFF as Bio-Formats writes it: the XML states 0.25 µm/px, the tags another, levels are in SubIFDs."""
    how: dict[str, Any] = {"photometric": "rgb", "tile": (128, 128), "compression": "deflate"}
    stated = {f"PhysicalSize{axis}": 0.25 for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    tags: dict[str, Any] = {"resolution": (72, 72), "resolutionunit": "INCH"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(levels[1], subifds=len(levels) - 1, metadata={"axes": "YXS", **stated}, **tags, **how)
        for downsample, image in levels.items():
            if downsample > 1:
                tiff.write(image, subfiletype=1, **how)


@pytest.fixture
def case(source: tuple[str, Path, Truth]) -> Iterator[Case]:
    reader, path, truth = source
    with open_slide(path, reader_type=reader) as opened:
        assert opened.reader_type == reader
        yield Case(opened, truth)


def regions(truth: Truth) -> list[Request]:
    """Locations inside, over each edge, beyond and at fractions of a pixel, on every level."""
    chance = random.Random(3)
    width, height = truth.level_dimensions[0]
    found = []
    for level, downsample in enumerate(truth.level_downsamples):
        step = int(downsample)
        for x, y in [
            (0, 0),
            (-37 * step, -11 * step),
            (width - 20 * step, height - 30 * step),
            (width - 7, -9),
            (width + 10, 5),
            (-500 * step, -500 * step),
            (step, 3 * step),
            (1, 2),
            *((chance.randrange(width), chance.randrange(height)) for _ in range(4)),
            *((chance.randrange(width) // step * step, chance.randrange(height) // step * step) for _ in range(4)),
        ]:
            found.append(((x, y), level, (chance.randrange(1, 200), chance.randrange(1, 200))))
    return found


def test_facts(case: Case) -> None:
    slide, truth = case.slide, case.truth
    assert slide.dimensions == truth.level_dimensions[0]
    assert slide.level_dimensions == truth.level_dimensions
    assert slide.level_downsamples == truth.level_downsamples
    assert slide.name == slide.path.name.split(".")[0]
    if isinstance(truth, OpenSlideTruth):
        assert dict(slide.properties) == dict(truth.raw.properties)
    elif slide.reader_type != "image":
        assert slide.mpp == pytest.approx(0.25)
        assert slide.mpp_source in slide.properties
        assert slide.magnification == 40


def test_pixels(case: Case) -> None:
    for request in regions(case.truth):
        pixels = case.slide.read_region(*request)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (request[2][1], request[2][0], 3)
        assert pixels.flags.c_contiguous
        assert case.truth.agrees(pixels, request), request


def test_a_region_larger_than_the_slide(case: Case) -> None:
    level = len(case.slide.level_dimensions) - 1
    width, height = case.slide.level_dimensions[level]
    size = (width + 60, height + 40)
    beyond = case.slide.read_region((0, 0), level, size)
    assert case.truth.agrees(beyond, ((0, 0), level, size))
    assert not beyond[height:].any()
    assert not beyond[:, width:].any()


def test_eight_threads(case: Case) -> None:
    wanted = regions(case.truth) * 4
    random.Random(1).shuffle(wanted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda request: case.slide.read_region(*request), wanted))
    assert all(case.truth.agrees(pixels, request) for request, pixels in zip(wanted, found, strict=True))


def test_thumbnail(case: Case) -> None:
    for max_size in [(100, 100), (1000, 50)]:
        found, expected = case.slide.thumbnail(max_size), case.truth.thumbnail(max_size)
        if case.slide.reader_type in ("openslide", "cucim"):
            assert np.array_equal(found, expected)
        else:
            assert found.shape == expected.shape
            assert np.abs(found.astype(int) - expected).mean() < 1


@pytest.mark.parametrize(("level", "size", "words"), [(9, (4, 4), "level 9"), (-1, (4, 4), "-1"), (0, (0, 4), "0 x 4")])
def test_a_request_that_cannot_be_meant(case: Case, level: int, size: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        case.slide.read_region((0, 0), level, size)


def test_use_after_close(case: Case) -> None:
    from trident.errors import UnreadableSlideError

    case.slide.close()
    case.slide.close()
    with pytest.raises(UnreadableSlideError, match=r"closed before this read"):
        case.slide.read_region((0, 0), 0, (4, 4))


READ_ELSEWHERE = """
import hashlib, json, sys
from trident.slides.registry import open_slide
for reader, path in json.loads(sys.argv[1]):
    with open_slide(path, reader_type=reader) as slide:
        level = len(slide.level_dimensions) - 1
        pixels = [slide.read_region((40, 8), at, (70, 60)) for at in (0, level)]
        print(hashlib.sha256(b"".join(part.tobytes() for part in pixels)).hexdigest())
"""


def test_another_process_reads_the_same(
    tmp_path: Path,
    scene_levels: dict[int, np.ndarray],
    write_slide: Any,
    write_omezarr: Any,
    write_czi: Any,
    write_dicom: Any,
) -> None:
    import hashlib

    Image.fromarray(scene_levels[1]).save(tmp_path / "slide.png")
    sources = [
        ("cucim", write_slide("slide.svs")),
        ("openslide", write_dicom(tmp_path / "series", scene_levels)),
        ("image", tmp_path / "slide.png"),
        ("omezarr", write_omezarr(tmp_path / "slide.ome.zarr", scene_levels)),
        ("czi", write_czi(tmp_path / "slide.czi", scene_levels)),
    ]
    expected = []
    for reader, path in sources:
        with open_slide(path, reader_type=reader) as slide:
            level = len(slide.level_dimensions) - 1
            pixels = [slide.read_region((40, 8), at, (70, 60)) for at in (0, level)]
            expected.append(hashlib.sha256(b"".join(part.tobytes() for part in pixels)).hexdigest())
    arguments = json.dumps([(reader, str(path)) for reader, path in sources])
    done = subprocess.run(
        [sys.executable, "-c", READ_ELSEWHERE, arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == expected
