from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trident.errors import SettingsError, StoreError, UnreadableSlideError
from trident.patching.dump import dump_patches
from trident.patching.grid import ReadPlan
from trident.patching.reader import PatchReader

COORDS = np.array([[0, 0], [64, 0], [128, 32], [0, 300]], np.int64)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def reader(array_slide):
    return PatchReader(array_slide(), ReadPlan(0, 64, 64))


def test_png_files_hold_the_patches_exactly(reader, tmp_path):
    folder = tmp_path / "patch_images" / "slide"
    assert dump_patches(reader, COORDS, folder) == 4
    assert names(folder) == [
        "000000_x0_y0.png",
        "000001_x64_y0.png",
        "000002_x128_y32.png",
        "000003_x0_y300.png",
    ]
    for index, (x, y) in enumerate(COORDS.tolist()):
        with Image.open(folder / f"{index:06d}_x{x}_y{y}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), reader.read(x, y))


def test_jpg_quality_shows_in_the_size_and_the_format_is_jpeg(reader, tmp_path):
    sizes = []
    for quality in (30, 95):
        folder = tmp_path / str(quality)
        dump_patches(reader, COORDS, folder, image_format="jpg", jpeg_quality=quality)
        path = folder / "000002_x128_y32.jpg"
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
        sizes.append(path.stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("limit", "written"), [(0, 4), (1, 1), (3, 3), (100, 4)])
def test_a_limit_takes_the_first_patches(reader, tmp_path, limit, written):
    seen = []
    count = dump_patches(reader, COORDS, tmp_path, limit=limit, on_progress=lambda done, of: seen.append((done, of)))
    assert count == written
    assert [int(name[:6]) for name in names(tmp_path)] == list(range(written))
    assert seen == [(done, written) for done in range(1, written + 1)]


def test_no_patches_write_nothing(reader, tmp_path):
    assert dump_patches(reader, np.empty((0, 2), np.int64), tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()


def test_files_of_an_earlier_run_are_replaced(reader, tmp_path):
    (tmp_path / "000000_x0_y0.png").write_bytes(b"old")
    dump_patches(reader, COORDS, tmp_path, limit=1)
    with Image.open(tmp_path / "000000_x0_y0.png") as image:
        assert image.size == (64, 64)


@pytest.mark.parametrize("left", [3, 0])
def test_images_of_earlier_coordinates_go_and_other_files_stay(reader, tmp_path, left):
    dump_patches(reader, COORDS, tmp_path, image_format="jpg")
    (tmp_path / "notes.png").write_bytes(b"a user's own")
    dump_patches(reader, COORDS[1 : 1 + left], tmp_path)
    expected = [f"{index:06d}_x{x}_y{y}.png" for index, (x, y) in enumerate(COORDS[1 : 1 + left].tolist())]
    assert names(tmp_path) == [*expected, "notes.png"]


def test_images_beyond_a_lower_limit_stay(reader, tmp_path):
    dump_patches(reader, COORDS, tmp_path)
    assert dump_patches(reader, COORDS, tmp_path, limit=1) == 1
    assert len(names(tmp_path)) == 4


def test_an_undecodable_patch_stops_the_dump_and_leaves_no_temporary_file(array_slide, tmp_path):
    slide = array_slide()
    slide.undecodable.add((64, 0))
    with pytest.raises(UnreadableSlideError):
        dump_patches(PatchReader(slide, ReadPlan(0, 64, 64)), COORDS, tmp_path)
    assert "000001_x64_y0.png" not in names(tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_file_in_the_folders_place_is_one_clear_error(reader, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        dump_patches(reader, COORDS, tmp_path / "taken")


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"limit": -1}, "--dump_patches_max"),
        ({"image_format": "tiff"}, "--dump_patches_format"),
        ({"jpeg_quality": 0}, "--dump_patches_jpeg_quality"),
        ({"jpeg_quality": 101}, "--dump_patches_jpeg_quality"),
    ],
)
def test_bad_options_name_the_flag(reader, tmp_path, options, flag):
    with pytest.raises(SettingsError, match=flag):
        dump_patches(reader, COORDS, tmp_path, **options)
