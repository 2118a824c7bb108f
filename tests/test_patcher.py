"""trident/patcher.py: the patches of a slide as a sequence, against the output contract worked out by the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image
from shapely.geometry import GeometryCollection, MultiPolygon, box

import trident
from trident.demo import draw_demo_slide
from trident.errors import MissingMppError, SettingsError
from trident.patcher import WSIPatcher
from trident.store import h5
from trident.store.geojson import write_tissue
from trident.wsi import WSI, load_wsi

WIDTH_PX, HEIGHT_PX, MPP = 1024, 768, 0.5
TISSUE = [box(130, 130, 300, 250), box(600, 400, 1000, 700)]
"""Boxes: simplification leaves them as they are."""


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "drawn.svs"
    draw_demo_slide(path, seed=1, width_px=WIDTH_PX, height_px=HEIGHT_PX, mpp=MPP)
    return path


@pytest.fixture
def wsi(slide_path: Path) -> WSI:
    return load_wsi(slide_path)


def _grid(step: int) -> list[tuple[int, int]]:
    return [(x, y) for y in range(0, HEIGHT_PX, step) for x in range(0, WIDTH_PX, step)]


def _share(x: int, y: int, side: int, tissue: Sequence[Any] = TISSUE) -> float:
    return sum(float(part.intersection(box(x, y, x + side, y + side)).area) for part in tissue) / side**2


def test_name_of_the_package() -> None:
    assert trident.WSIPatcher is WSIPatcher


@pytest.mark.parametrize(
    ("target", "side", "level", "read_px"),
    [
        ({}, 64, 0, 64),
        ({"dst_mag": 20}, 64, 0, 64),
        ({"dst_mag": 10}, 128, 0, 128),
        ({"dst_mag": 5}, 256, 1, 64),
        ({"dst_mag": 40}, 32, 0, 32),
        ({"dst_mag": 2.5}, 512, 1, 128),
        ({"dst_mag": 10, "src_mag": 40}, 256, 1, 64),
        ({"dst_pixel_size": 1.0}, 128, 0, 128),
        ({"dst_pixel_size": 0.65}, 83, 0, 83),
        ({"dst_pixel_size": 2.0, "src_pixel_size": 1.0}, 128, 0, 128),
    ],
)
def test_tiles(wsi: WSI, slide_path: Path, target: dict[str, float], side: int, level: int, read_px: int) -> None:
    patcher = wsi.create_patcher(64, **target)  # type: ignore[arg-type]
    assert [tuple(row) for row in patcher.coords.tolist()] == _grid(side)
    assert (patcher.patch_size_src, patcher.level) == (side, level)
    assert len(patcher) == patcher.valid_patches_nb == len(patcher.valid_coords) == len(_grid(side))
    slide = openslide.OpenSlide(slide_path)
    for index in {0, len(patcher) // 2, len(patcher) - 1}:
        tile, x, y = patcher[index]  # type: ignore[misc]
        assert (x, y) == _grid(side)[index]
        region = slide.read_region((x, y), level, (read_px, read_px)).convert("RGB")
        expected = np.asarray(region.resize((64, 64), Image.Resampling.BICUBIC))
        assert isinstance(tile, np.ndarray)
        assert (tile.dtype, tile.shape) == (np.uint8, (64, 64, 3))
        np.testing.assert_array_equal(tile, expected)


def test_sequence(wsi: WSI) -> None:
    patcher = wsi.create_patcher(256)
    listed: list[Any] = list(patcher)
    assert [(x, y) for _, x, y in listed] == _grid(256)
    np.testing.assert_array_equal(patcher[-1][0], listed[-1][0])
    for index in (len(listed), -len(listed) - 1):
        with pytest.raises(IndexError):
            patcher[index]


def test_coords_only_reads_no_pixel(wsi: WSI, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher = wsi.create_patcher(256, coords_only=True)
    monkeypatch.setattr(type(wsi.slide), "read_region", lambda *arguments: pytest.fail("a region was read"))
    listed: list[Any] = list(patcher)
    assert listed == _grid(256)
    assert all(type(value) is int for row in listed for value in row)


def test_pil(wsi: WSI) -> None:
    tile, _, _ = wsi.create_patcher(64, pil=True)[5]  # type: ignore[misc]
    assert isinstance(tile, Image.Image)
    assert (tile.mode, tile.size) == ("RGB", (64, 64))
    np.testing.assert_array_equal(np.asarray(tile), wsi.create_patcher(64)[5][0])


def test_reads_on_after_release(wsi: WSI) -> None:
    patcher = wsi.create_patcher(64)
    before = patcher[7][0]
    wsi.release()
    np.testing.assert_array_equal(patcher[7][0], before)


@pytest.mark.parametrize(
    "mask",
    [
        TISSUE,
        tuple(TISSUE),
        MultiPolygon(TISSUE),
        GeometryCollection(TISSUE),
        [MultiPolygon(TISSUE)],
        [SimpleNamespace(geometry=part) for part in TISSUE],
        SimpleNamespace(geometry=TISSUE),  # as a GeoDataFrame gives it
        (part for part in TISSUE),
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_kinds_of_mask(wsi: WSI, mask: Any) -> None:
    expected = [(x, y) for x, y in _grid(64) if _share(x, y, 64) >= 0.15]
    assert list(wsi.create_patcher(64, mask=mask, coords_only=True)) == expected


@pytest.mark.parametrize("threshold", [0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("overlap", [0, 32])
def test_threshold(wsi: WSI, threshold: float, overlap: int) -> None:
    patcher = wsi.create_patcher(128, dst_mag=20, overlap=overlap, mask=TISSUE, threshold=threshold, coords_only=True)
    grid = _grid(128 - overlap)
    if threshold:
        expected = [(x, y) for x, y in grid if _share(x, y, 128) >= threshold]
    else:
        expected = [(x, y) for x, y in grid if any(part.intersects(box(x, y, x + 128, y + 128)) for part in TISSUE)]
    assert 0 < len(expected) < len(grid)
    assert list(patcher) == expected


def test_mask_without_tissue(wsi: WSI) -> None:
    patcher = wsi.create_patcher(64, mask=[])
    assert len(patcher) == 0
    assert list(patcher) == []
    assert patcher.coords.shape == (0, 2)


@pytest.mark.parametrize("kind", [list, np.array, lambda rows: np.array(rows, dtype=np.float32)])
def test_custom_coords(wsi: WSI, kind: Any) -> None:
    rows = [[700, 450], [3, 5], [150, 140]]
    assert list(wsi.create_patcher(64, custom_coords=kind(rows), coords_only=True)) == [tuple(row) for row in rows]
    kept = wsi.create_patcher(64, custom_coords=kind(rows), mask=TISSUE, coords_only=True)
    assert list(kept) == [(700, 450), (150, 140)]
    tile, x, y = wsi.create_patcher(64, custom_coords=kind(rows))[1]  # type: ignore[misc]
    assert (x, y) == (3, 5)
    np.testing.assert_array_equal(tile, wsi.read_region((3, 5), 0, (64, 64), "numpy"))


def test_no_custom_coords(wsi: WSI) -> None:
    assert len(wsi.create_patcher(64, custom_coords=[])) == 0


@pytest.mark.parametrize(("target_mag", "overlap", "share"), [(10, 0, 0.0), (5, 16, 0.4), (2.5, 0, 0.15)])
def test_equals_the_coordinates_file(
    slide_path: Path, tmp_path: Path, target_mag: float, overlap: int, share: float
) -> None:
    write_tissue(tmp_path / "tissue.geojson", TISSUE, None)
    wsi = load_wsi(slide_path, tissue_seg_path=tmp_path / "tissue.geojson")
    path = wsi.extract_tissue_coords(target_mag, 64, tmp_path, overlap, share)
    patcher = wsi.create_patcher(
        64, src_mag=wsi.mag, dst_mag=target_mag, overlap=overlap, mask=wsi.tissue, threshold=share, coords_only=True
    )
    assert len(patcher) > 0
    np.testing.assert_array_equal(patcher.coords, h5.read_coords(Path(path)).coords)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 0}, "patch size is 0"),
        ({"overlap": 64}, "--overlap"),
        ({"overlap": -1}, "--overlap"),
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"dst_mag": 0}, "dst_mag is 0"),
        ({"dst_mag": float("inf")}, "dst_mag is inf"),
        ({"dst_pixel_size": -0.5}, "dst_pixel_size is -0.5"),
        ({"dst_pixel_size": 0.5, "dst_mag": 20}, "not both"),
        ({"src_pixel_size": 0.5, "dst_mag": 20}, "not both"),
        ({"dst_mag": 20000}, "less than one pixel"),
        ({"mask": [(0, 0), (1, 1)]}, "mask holds a tuple"),
        ({"mask": 7}, "mask holds a int"),
        ({"mask": "tissue"}, "mask holds a str"),
        ({"custom_coords": [1, 2]}, r"shape \(N, 2\)"),
        ({"custom_coords": [[1, 2, 3]]}, r"shape \(N, 2\)"),
        ({"custom_coords": [["a", "b"]]}, "are numbers"),
        ({"custom_coords": [[0.5, 1]]}, "whole level-0 pixels"),
        ({"custom_coords": [[float("nan"), 1]]}, "whole level-0 pixels"),
    ],
)
def test_errors(wsi: WSI, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        wsi.create_patcher(**{"patch_size": 64, **arguments})


def test_unknown_resolution(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "plain.png")
    wsi = load_wsi(tmp_path / "plain.png")
    assert list(wsi.create_patcher(100, coords_only=True)) == [(0, 0), (100, 0)]
    assert len(wsi.create_patcher(100, src_mag=20, dst_mag=10)) == 1
    for target in ({"dst_mag": 20}, {"dst_pixel_size": 0.5}):
        with pytest.raises(MissingMppError, match=r"plain\.png"):
            wsi.create_patcher(100, **target)
