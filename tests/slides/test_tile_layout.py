from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from trident.demo import draw_demo_slide
from trident.slides.base import Slide
from trident.slides.registry import open_slide
from trident.slides.tile_layout import LevelLayout, level_layouts


@pytest.mark.parametrize(
    ("codec", "compression"), [("jpeg", "JPEG"), ("jpeg2000", "JPEG 2000 (RGB)"), ("deflate", "Deflate")]
)
def test_each_level_of_a_tiled_tiff(write_slide: Any, codec: str, compression: str) -> None:
    with open_slide(write_slide("a.svs", codec=codec), reader_type="openslide") as slide:
        assert level_layouts(slide) == (LevelLayout((128, 128), compression),) * 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CMU-1-Small-Region.svs", [((240, 240), "JPEG")]),
        ("boxes.tiff", [((64, 64), "Deflate")] * 4),
        ("boxes_0.dcm", [((64, 64), "JPEG")]),
    ],
)
def test_real_files(shared_slides: Path, name: str, expected: list[tuple[tuple[int, int], str]]) -> None:
    with open_slide(shared_slides / name, reader_type="openslide") as slide:
        assert [(layout.tile_size, layout.compression) for layout in level_layouts(slide)] == expected


def test_a_plain_image_has_no_tiles(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    from PIL import Image

    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)
    with open_slide(path) as slide:
        assert level_layouts(slide) == (LevelLayout(None, "PNG"),)


class _Named(Slide):
    """Stands for a slide of another reader: only what a layout is made of."""

    reader_type = "named"

    def __init__(self, path: Path, *sizes: tuple[int, int], axes: str = "") -> None:
        self.path, self.level_dimensions, self.properties = path, sizes, {"omezarr.axes": axes}

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        raise AssertionError

    def thumbnail(self, max_size: tuple[int, int]) -> Any:
        raise AssertionError

    def close(self) -> None:
        pass


def test_reduced_images_in_sub_directories_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    pixels = np.zeros((128, 160, 3), np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, subifds=1, tile=(32, 64), photometric="rgb", compression="deflate")
        tiff.write(pixels[::2, ::2], tile=(16, 32), photometric="rgb", subfiletype=1)
    expected = (LevelLayout((64, 32), "Deflate"), LevelLayout((32, 16), "none"), LevelLayout(None, None))
    assert level_layouts(_Named(path, (160, 128), (80, 64), (40, 32))) == expected


def test_a_tiled_page_counts_before_one_of_strips(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.zeros((64, 64, 3), np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, rowsperstrip=8, photometric="rgb")
        tiff.write(pixels, tile=(16, 16), photometric="rgb")
        tiff.write(pixels[:32], rowsperstrip=8, photometric="rgb")
    assert level_layouts(_Named(path, (64, 64), (64, 32))) == (LevelLayout((16, 16), "none"), LevelLayout(None, "none"))


@pytest.mark.parametrize(("zarr_format", "compression"), [(2, "blosc"), (3, "zstd")])  # zarr's own defaults
def test_chunks_of_an_ome_zarr(tmp_path: Path, zarr_format: Any, compression: str) -> None:
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "a.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    group.create_array("0/0", shape=(3, 100, 120), chunks=(3, 32, 64), dtype="uint8")
    group.create_array("0/1", shape=(3, 50, 60), chunks=(1, 16, 32), dtype="uint8", compressors=None)
    layouts = level_layouts(_Named(path, (120, 100), (60, 50), (30, 25), axes="cyx"))
    assert [layout.tile_size for layout in layouts] == [(64, 32), (32, 16), None]
    assert [layout.compression for layout in layouts] == [compression, "none", None]


@pytest.mark.parametrize("axes", ["yxc", "cyx", "zcyx", "xyc"])
def test_chunks_whatever_the_order_of_the_axes(tmp_path: Path, axes: str) -> None:
    zarr = pytest.importorskip("zarr")
    sides, chunks = {"z": 2, "c": 3, "y": 100, "x": 120}, {"z": 1, "c": 3, "y": 32, "x": 64}
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w")
    shape = tuple(sides[axis] for axis in axes)
    group.create_array("0", shape=shape, chunks=tuple(chunks[axis] for axis in axes), dtype="uint8")
    (layout,) = level_layouts(_Named(tmp_path / "a.ome.zarr", (120, 100), axes=axes))
    assert layout.tile_size == (64, 32)


def test_a_folder_that_is_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "a.ome.zarr").mkdir()
    (tmp_path / "a.ome.zarr" / ".zgroup").write_text("{")
    assert level_layouts(_Named(tmp_path / "a.ome.zarr", (120, 100), axes="yx")) == (LevelLayout(None, None),)


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_directories_that_do_not_parse_are_left_out(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.svs"
    draw_demo_slide(path, seed=1, width_px=512, height_px=512)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "garbage":
        path.write_bytes(b"II*\0\x08\0\0\0" + b"\xff" * 500)
    else:
        path.unlink()
    assert level_layouts(_Named(path, (512, 512))) == (LevelLayout(None, None),)
