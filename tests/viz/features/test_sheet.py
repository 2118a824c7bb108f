"""Contact sheets: the patches themselves, or why they are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from trident.export.sources import FeatureSet, choose_features
from trident.slides.registry import open_slide
from trident.viz.features import sheet
from trident.viz.features.search import Match, Patch, Query
from trident.viz.features.sheet import TILE_PX, draw_sheet, read_tiles
from trident.viz.features.slide_files import SlideFiles

RED = np.full((TILE_PX, TILE_PX, 3), (250, 0, 0), np.uint8)


@pytest.fixture
def chosen(tmp_path: Path, put_features: Callable[..., Path], drawn_slides: Callable[..., Path]) -> FeatureSet:
    folder = drawn_slides(tmp_path / "slides", "a.svs", "b.svs")
    for name in ("a", "b", "gone", "unknown"):
        path = None if name == "unknown" else folder / f"{name}.svs"
        put_features(tmp_path / "job", name, np.ones((20, 2)), slide_path=path)
    return choose_features(tmp_path / "job", "patch")


def test_tiles_are_the_pixels_of_the_slides(chosen: FeatureSet) -> None:
    patches = [Patch("a", 3, 384, 0), Patch("b", 9, 128, 128), Patch("a", 9, 128, 128)]
    tiles = read_tiles(chosen, SlideFiles(chosen.job_dir), patches)
    assert list(tiles) == [patches[0], patches[2], patches[1]]
    for patch in patches:
        with open_slide(chosen.job_dir.parent / "slides" / f"{patch.slide}.svs", reader_type="openslide") as slide:
            region = slide.read_region((patch.x, patch.y), 0, (128, 128))
        expected = Image.fromarray(region).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(tiles[patch], np.asarray(expected))


def test_what_cannot_be_read_says_why(chosen: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    (chosen.job_dir.parent / "slides" / "b.svs").write_bytes(b"no slide")
    patches = [Patch(name, 0, 0, 0) for name in ("gone", "unknown", "b", "a")]
    tiles = read_tiles(chosen, SlideFiles(chosen.job_dir), patches)
    assert "the slide is gone" in str(tiles[patches[0]])
    assert "its file is not known here" in str(tiles[patches[1]])
    assert "b.svs" in str(tiles[patches[2]])
    assert isinstance(tiles[patches[3]], np.ndarray)
    monkeypatch.setattr(sheet, "MAX_READ_PX", 100)
    assert "too large to be shown" in str(read_tiles(chosen, SlideFiles(chosen.job_dir), patches)[patches[3]])
    with h5py.File(chosen.file("a"), "r+") as file:
        del file["coords"].attrs["patch_size"]
    assert "patch_size" in str(read_tiles(chosen, SlideFiles(chosen.job_dir), patches)[patches[3]])


@pytest.mark.parametrize(
    ("counts", "columns", "rows"), [([1], 2, 1), ([3, 2], 3, 2), ([20], 8, 3), ([0], 2, 1), ([9, 0], 8, 3)]
)
def test_every_match_has_its_place(counts: list[int], columns: int, rows: int) -> None:
    queries = [Query(Patch("a", number, 0, 0), np.ones(1)) for number in range(len(counts))]
    matches = [
        [Match(Patch("Ünï <b>" * 20, 100 * number + rank, 5, 7), 0.5) for rank in range(count)]
        for number, count in enumerate(counts)
    ]
    tiles = dict.fromkeys([query.patch for query in queries] + [one.patch for found in matches for one in found], RED)
    picture = np.asarray(draw_sheet("title", queries, matches, tiles))
    assert picture.shape[1] == (TILE_PX + 12) * (columns + 1) + 24
    assert picture.shape[0] == 46 + rows * (TILE_PX + 48)
    red = (picture == (250, 0, 0)).all(axis=2).sum()
    inside, framed = (TILE_PX - 2) ** 2, (TILE_PX - 10) ** 2
    assert red == sum(counts) * inside + len(counts) * framed


def test_a_missing_tile_is_an_empty_frame_with_the_reason() -> None:
    query, match = Query(Patch("a", 0, 0, 0), np.ones(1)), Match(Patch("b", 0, 0, 0), 1.0)
    tiles = {query.patch: RED, match.patch: "the slide is gone; look elsewhere"}
    picture = np.asarray(draw_sheet("", [query], [[match]], tiles))
    frame = picture[46 : 46 + TILE_PX, 228 : 228 + TILE_PX]
    assert (frame[0] == frame[-1]).all()
    assert (frame[TILE_PX // 2 + 20 : -2, 2:-2] == 244).all()
    assert (frame[8:60] < 128).any()


def test_slides_whose_names_the_font_lacks_are_told_apart_by_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sheet, "text_on", lambda draw, place, text, width_px, *, size_px: written.append(text))
    queries = [Query(Patch("切片", number, 0, 0), np.ones(1)) for number in range(2)]
    matches = [[Match(Patch(name, 0, 1, 2), 0.5) for name in ("一", "二")] for _ in queries]
    draw_sheet("", queries, matches, dict.fromkeys([queries[0].patch, queries[1].patch, *_patches(matches)], RED))
    assert [text for text in written if text.startswith("row")] == ["row 1: 一", "row 2: 二", "row 3: 一", "row 4: 二"]
    assert [text.split()[0] for text in written if "0.5000" in text] == ["1.", "2.", "1.", "2."]
    assert [text.partition("   ")[0] for text in written if text.startswith("query")] == ["query 1", "query 2"]


def _patches(matches: list[list[Match]]) -> list[Patch]:
    return [match.patch for found in matches for match in found]
