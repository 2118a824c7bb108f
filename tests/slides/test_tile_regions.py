"""trident/slides/tile_regions.py and subpixel.py: OpenSlide's pixels from tiles, each decoded once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest

from trident.errors import UnreadableSlideError
from trident.slides.base import Slide
from trident.slides.registry import open_slide
from trident.slides.tile_regions import TileRegions

pytest.importorskip("cucim")
pytest.importorskip("simplejpeg")


def expected_pixels(path: Path, corner: tuple[int, int], level: int, side_px: int) -> np.ndarray:
    with openslide.OpenSlide(path) as raw:
        return np.asarray(raw.read_region(corner, level, (side_px, side_px)))[..., :3].astype(int)


def announced(slide: Slide, level: int, side_px: int, corners: Any) -> TileRegions:
    regions = slide.announce_regions(level, side_px, np.asarray(corners))
    assert isinstance(regions, TileRegions), slide.notes
    return regions


@pytest.mark.parametrize("vendor", ["aperio", "generic"])
@pytest.mark.parametrize("downsamples", [(1, 2, 4), (1, 4.03), (1, 3.97, 8.1)], ids=str)
def test_every_level_gives_openslides_pixels(downsamples: tuple[float, ...], vendor: str, write_slide: Any) -> None:
    path = write_slide("a.svs" if vendor == "aperio" else "a.tiff", downsamples, vendor=vendor)
    chance = random.Random(2)
    with open_slide(path) as slide:
        width, height = slide.dimensions
        for level, downsample in enumerate(slide.level_downsamples):
            corners = [(chance.randrange(-90, width), chance.randrange(-90, height)) for _ in range(30)]
            corners += [(0, 0), (-7, 40), (width + 5, 8), (-500, -500), (width - 60, height - 60), (13, 0)]
            side_px = chance.randrange(40, 180 // level if level else 180)
            regions = announced(slide, level, side_px, corners)
            out = np.full((side_px, side_px, 3), 77, np.uint8)
            for index, corner in enumerate(corners):
                places = [value / downsample for value in corner]
                is_whole = all(place.is_integer() for place in places)
                sides = slide.level_dimensions[level]
                is_inside = all(0 <= at < limit - side_px - 1 for at, limit in zip(places, sides, strict=True))
                is_read = regions.read(index, out)
                assert is_read or not (is_whole or is_inside), (level, corner)
                if is_read:
                    difference = np.abs(out - expected_pixels(path, corner, level, side_px))
                    assert difference.max() <= (0 if is_whole else 1), (level, corner)
                    assert np.count_nonzero(difference) <= 0.002 * difference.size
            assert not slide.notes


def test_a_real_slide(shared_slides: Path) -> None:
    path = shared_slides / "CMU-1-Small-Region.svs"
    corners = [(x, y) for y in range(0, 2900, 700) for x in range(0, 2200, 700)]
    with open_slide(path) as slide:
        regions = announced(slide, 0, 512, corners)
        out = np.empty((512, 512, 3), np.uint8)
        for index, corner in enumerate(corners):
            assert regions.read(index, out)
            assert np.array_equal(out, expected_pixels(path, corner, 0, 512))


@pytest.mark.parametrize(("side_px", "step_px"), [(256, 256), (256, 192), (100, 77), (300, 90)])
def test_each_tile_is_decoded_once_and_let_go(side_px: int, step_px: int, write_slide: Any) -> None:
    with open_slide(write_slide("a.svs")) as slide:
        width, height = slide.dimensions
        corners = [(x, y) for y in range(0, height, step_px) for x in range(0, width, step_px)]
        regions = announced(slide, 0, side_px, corners)
        out = np.empty((side_px, side_px, 3), np.uint8)
        assert all(regions.read(index, out) for index in range(len(corners)))
        assert regions.cache.n_decoded == -(-width // 128) * -(-height // 128)
        assert not regions.uses()[regions.uses() < 0].size
        assert not regions.cache._uses.any()
        assert not regions.cache._tiles


def test_little_memory_costs_time_and_not_pixels(write_slide: Any) -> None:
    path = write_slide("a.svs")
    corners = [(x, y) for y in range(0, 700, 64) for x in range(0, 800, 64)]
    with open_slide(path) as slide:
        tiles = announced(slide, 0, 128, corners)._tiles
        regions = TileRegions(tiles, 1.0, 128, np.array(corners), max_cache_bytes=3 * 128 * 128 * 3)
        out = np.empty((128, 128, 3), np.uint8)
        for index, corner in enumerate(corners):
            assert regions.read(index, out)
            assert np.array_equal(out, expected_pixels(path, corner, 0, 128))


def test_eight_threads(write_slide: Any) -> None:
    path = write_slide("a.svs", (1, 4.03))
    corners = [(x, y) for y in range(0, 480, 37) for x in range(0, 600, 41)]
    with open_slide(path) as slide:
        for level in (0, 1):
            regions = announced(slide, level, 90, corners)

            def read(index: int, regions: TileRegions = regions) -> np.ndarray | None:
                out = np.empty((90, 90, 3), np.uint8)
                return out if regions.read(index, out) else None

            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(read, range(len(corners))))
            for corner, pixels in zip(corners, found, strict=True):
                assert pixels is not None
                assert np.abs(pixels - expected_pixels(path, corner, level, 90)).max() <= level


def damage(path: Path, seed: int) -> None:
    """Change a few bytes in the coded data of every tile of level 0."""
    import tifffile

    chance = np.random.default_rng(seed)
    with tifffile.TiffFile(path) as tiff:
        places = list(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True))
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset + int(chance.integers(count * 2 // 3, count)))
            file.write(chance.integers(0, 256, 3 + seed, dtype=np.uint8).tobytes())


@pytest.mark.parametrize("seed", range(6))
def test_damage_is_seen_where_openslide_sees_it(seed: int, write_slide: Any) -> None:
    path = write_slide("a.svs")
    with open_slide(path) as slide:
        tiles = announced(slide, 0, 128, [(0, 0)])._tiles
    damage(path, seed)
    corners = [(x, y) for y in range(0, 700, 128) for x in range(0, 880, 128)]
    regions = TileRegions(tiles, 1.0, 128, np.array(corners))
    n_failed = 0
    with open_slide(path, reader_type="openslide") as slide:
        for index, (x, y) in enumerate(corners):
            out = np.empty((128, 128, 3), np.uint8)
            is_read = regions.read(index, out)
            try:
                true = slide.read_region((x, y), 0, (128, 128))
            except UnreadableSlideError:
                n_failed += 1
                assert not is_read, (x, y)
                continue
            assert not is_read or np.array_equal(out, true), (x, y)
    assert n_failed > 0


def test_pixels_that_differ_are_not_used(write_slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from trident.slides.jpeg_tiles import JpegTiles

    decode = JpegTiles.decode

    def two_levels_off(self: JpegTiles, index: int, out: np.ndarray) -> bool:
        is_sound = decode(self, index, out)
        out ^= 2
        return is_sound

    monkeypatch.setattr(JpegTiles, "decode", two_levels_off)
    with open_slide(write_slide("a.svs")) as slide:
        assert slide.announce_regions(0, 200, np.array([[10, 10], [300, 200]])) is None
        assert [note for note in slide.notes if "level 0 is read region by region" in note]


@pytest.mark.parametrize("codec", ["jpeg2000", "deflate"])
def test_other_codecs_have_no_such_regions(codec: str, write_slide: Any) -> None:
    with open_slide(write_slide("a.svs", codec=codec)) as slide:
        assert slide.announce_regions(0, 64, np.array([[0, 0]])) is None


def test_a_chosen_openslide_stays_openslide(write_slide: Any) -> None:
    with open_slide(write_slide("a.svs"), reader_type="openslide") as slide:
        assert slide.announce_regions(0, 64, np.array([[0, 0]])) is None


def test_nothing_announced(write_slide: Any) -> None:
    with open_slide(write_slide("a.svs")) as slide:
        assert slide.announce_regions(0, 64, np.empty((0, 2), np.int64)) is None
        with pytest.raises(ValueError, match="level 7"):
            slide.announce_regions(7, 64, np.array([[0, 0]]))
