"""The written TIFF: sizes of levels, classic or big, and what it says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from trident.convert.levels import level_sizes, needs_bigtiff
from trident.convert.pyramid import read_recipe, require_levels, shrunk, write_pyramid
from trident.errors import SlideError, StoreError
from trident.store.recipes import Recipe

pyvips = pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")


def _write(path: Path, width: int, height: int, *, bigtiff: bool = False) -> Recipe:
    recipe = Recipe("convert", {"quality": 80}, facts={"levels": len(level_sizes(width, height))})
    image = pyvips.Image.new_from_array(np.full((height, width, 3), 200, np.uint8), interpretation="srgb")
    write_pyramid(image, path, mpp=0.2528, quality=80, profile=None, bigtiff=bigtiff, recipe=recipe)
    return recipe


@pytest.mark.parametrize(("width", "height"), [(1, 1), (256, 256), (257, 256), (3, 1500), (2000, 5), (1025, 767)])
def test_libvips_writes_the_levels_that_are_foreseen(tmp_path: Path, width: int, height: int) -> None:
    recipe = _write(tmp_path / "a.tiff", width, height)
    with tifffile.TiffFile(tmp_path / "a.tiff") as tiff:
        pages = list(tiff.pages)
        assert [(page.imagewidth, page.imagelength) for page in pages] == level_sizes(width, height)
        assert all(page.is_tiled and page.tilewidth == 256 and page.compression == 7 for page in pages)
        numerator, denominator = pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(10_000 / 0.2528, rel=1e-6)
        assert pages[0].tags["ResolutionUnit"].value == 3
        assert not tiff.is_bigtiff
    assert read_recipe(tmp_path / "a.tiff") == recipe


def test_bigtiff_by_size_and_by_demand(tmp_path: Path) -> None:
    _write(tmp_path / "a.tiff", 300, 300, bigtiff=True)
    assert (tmp_path / "a.tiff").read_bytes()[:4] == b"II\x2b\0"
    assert not needs_bigtiff(26_000, 27_000)
    assert needs_bigtiff(27_000, 27_000)
    # Not even pixels that do not compress at all fill 4 GiB below the limit.
    noise = pyvips.Image.new_from_array(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    write_pyramid(
        noise.copy(interpretation="srgb"),
        tmp_path / "noise.tiff",
        mpp=1,
        quality=100,
        profile=None,
        bigtiff=False,
        recipe=Recipe("convert"),
    )
    assert (tmp_path / "noise.tiff").stat().st_size < 6 * 512 * 512


def test_shrinking_averages_squares() -> None:
    array = np.random.default_rng(1).integers(0, 256, (65, 50, 3), dtype=np.uint8)
    image = pyvips.Image.new_from_array(array, interpretation="srgb")
    found = shrunk(image, 3, Path("a.svs")).numpy()
    expected = array[:63, :48].reshape(21, 3, 16, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, expected, atol=0.501)
    assert shrunk(image, 1, Path("a.svs")) is image
    with pytest.raises(SlideError, match=r"a\.svs: it has only 50 x 65 px; choose a smaller --downscale_by"):
        shrunk(image, 64, Path("a.svs"))


def test_files_of_other_programs_carry_no_recipe(tmp_path: Path) -> None:
    for description in ("made by hand", '{"shape": [4, 4]}', "{not json"):
        tifffile.imwrite(tmp_path / "a.tiff", np.zeros((16, 16, 3), np.uint8), description=description, metadata=None)
        assert read_recipe(tmp_path / "a.tiff") is None


def test_damaged_outputs_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    for content in (b"", b"text", b"II*\0\x10\0\0\0"):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"a\.tiff: not a readable TIFF"):
            read_recipe(path)
    _write(path, 600, 600)
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(StoreError):
            read_recipe(path)
    with pytest.raises(StoreError):
        require_levels(path, level_sizes(600, 600))


def test_the_recipe_is_plain_json_in_the_description(tmp_path: Path) -> None:
    _write(tmp_path / "a.tiff", 20, 20)
    with tifffile.TiffFile(tmp_path / "a.tiff") as tiff:
        content = json.loads(tiff.pages.first.description)  # type: ignore[union-attr]
    assert content["trident_recipe"]["settings"] == {"quality": 80}
