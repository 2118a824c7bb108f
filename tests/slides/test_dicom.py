from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trident.errors import UnreadableSlideError
from trident.slides import dicom
from trident.slides.dicom import by_series, openable_file, series_uid
from trident.slides.discovery import find_slides
from trident.slides.folders import source_bytes
from trident.slides.registry import open_slide


@pytest.mark.parametrize("which", ["", "level-0.dcm", "level-2.dcm"])
def test_a_folder_and_any_file_of_it_are_the_whole_pyramid(
    which: str, tmp_path: Path, write_dicom: Any, scene_levels: dict[int, np.ndarray]
) -> None:
    folder = write_dicom(tmp_path / "1.2.840.99", scene_levels)
    with open_slide(folder / which) as slide:
        assert slide.reader_type == "openslide"
        assert slide.name == (which.removesuffix(".dcm") or "1.2.840.99")
        assert slide.path == folder / which
        assert slide.mpp == pytest.approx(0.25)
        for level, image in enumerate(scene_levels.values()):
            assert np.array_equal(slide.read_region((0, 0), level, slide.level_dimensions[level]), image)


def test_real_files_are_one_series(shared_slides: Path) -> None:
    files = [str(shared_slides / name) for name in ("boxes_0.dcm", "boxes.tiff", "boxes_1.dcm")]
    assert by_series(files) == [[files[0], files[2]], [files[1]]]
    assert series_uid(files[0]) == "1.3.6.1.4.1.5962.99.1.1747645553.419656796.1689669825649.4.0"


@pytest.mark.parametrize("content", [None, b"", b"x" * 500, bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 99])
def test_a_file_without_a_series(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    if content is not None:
        path.write_bytes(content)
    assert series_uid(path) is None


def test_folders_that_are_no_slide(tmp_path: Path, write_dicom: Any, scene: np.ndarray) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableSlideError, match="it is a directory, not a slide file"):
        open_slide(tmp_path / "empty")
    folder = write_dicom(tmp_path / "two", {1: scene}, series="1.2.3", name="a")
    write_dicom(folder, {1: scene}, series="1.2.4", name="b")
    with pytest.raises(UnreadableSlideError, match="holds 2 DICOM series"):
        open_slide(folder)


def test_files_need_no_extension_in_a_folder_of_their_own(tmp_path: Path, write_dicom: Any, scene: np.ndarray) -> None:
    folder = write_dicom(tmp_path / "series", {1: scene})
    (folder / "level-0.dcm").rename(folder / "IMG0001")
    (folder / "README").write_text("no image")
    assert openable_file(folder) == folder / "IMG0001"


def names(root: Path, **options: Any) -> dict[str, str]:
    return {slide.rel_path: slide.name for slide in find_slides(root, **options)}


def test_a_series_counts_once(tmp_path: Path, write_dicom: Any, scene_levels: dict[int, np.ndarray]) -> None:
    write_dicom(tmp_path, scene_levels, series="1.1", name="flat")
    write_dicom(tmp_path, {1: scene_levels[4]}, series="1.2", name="alone")
    write_dicom(tmp_path / "1.2.840.5", scene_levels, series="1.3")
    write_dicom(tmp_path / "mixed", scene_levels, series="1.4", name="x")
    write_dicom(tmp_path / "mixed", scene_levels, series="1.5", name="y")
    write_dicom(tmp_path / "single", {1: scene_levels[4]}, series="1.6", name="only")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.svs").touch()
    here = {"flat-0.dcm": "flat-0", "alone-0.dcm": "alone-0", "1.2.840.5": "1.2.840.5"}
    assert names(tmp_path) == here | {"single": "single"}
    assert names(tmp_path, extensions=["dcm"]) == here | {"single": "single"}
    below = {"mixed/x-0.dcm": "x-0", "mixed/y-0.dcm": "y-0", "single/only-0.dcm": "only-0", "other/a.svs": "a"}
    assert names(tmp_path, search_nested=True) == here | below
    assert names(tmp_path, extensions=["svs"], search_nested=True) == {"other/a.svs": "a"}
    sizes = {slide.name: slide.size_bytes for slide in find_slides(tmp_path)}
    for name, files in {"flat-0": "flat-*.dcm", "1.2.840.5": "1.2.840.5/*.dcm"}.items():
        assert sizes[name] == sum(path.stat().st_size for path in tmp_path.glob(files))


def test_with_search_nested_a_single_file_counts_like_any_other(
    tmp_path: Path, write_dicom: Any, scene: np.ndarray
) -> None:
    for folder in ("one", "two"):
        for name in ("a", "b"):
            write_dicom(tmp_path / folder / f"case {name}" / "dicom", {1: scene}, name=f"{folder}-{name}")
    found = {f"{f}/case {n}/dicom/{f}-{n}-0.dcm": f"{f}-{n}-0" for f in ("one", "two") for n in ("a", "b")}
    assert names(tmp_path, search_nested=True) == found  # by their folders all would be called the same


@pytest.mark.parametrize(
    ("search_nested", "more"),
    [(False, ["single/lone-0.dcm"]), (True, [])],
)
def test_only_headers_that_decide_something_are_read_and_each_once(
    search_nested: bool,
    more: list[str],
    tmp_path: Path,
    write_dicom: Any,
    scene: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_dicom(tmp_path, {1: scene}, series="1.1", name="here")
    write_dicom(tmp_path / "single", {1: scene}, series="1.2", name="lone")
    write_dicom(tmp_path / "several", {1: scene, 2: scene[::2, ::2]}, series="1.3")
    for name in ("x", "y"):
        write_dicom(tmp_path / "mixed", {1: scene}, series=f"1.4.{name == 'x':d}", name=name)
    read: list[str] = []
    known = dicom.series_uid
    monkeypatch.setattr(dicom, "series_uid", lambda path: read.append(path) or known(path))
    find_slides(tmp_path, search_nested=search_nested)
    expected = ["mixed/x-0.dcm", "mixed/y-0.dcm", "several/level-0.dcm", "several/level-1.dcm", *more]
    assert sorted(read) == [str(tmp_path / name) for name in expected]


@pytest.mark.parametrize("search_nested", [False, True])
@pytest.mark.parametrize("n_levels", [1, 3])
def test_a_folder_is_taken_without_what_cannot_be_read_in_it(
    n_levels: int,
    search_nested: bool,
    tmp_path: Path,
    write_dicom: Any,
    scene_levels: dict[int, np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    levels = dict(list(scene_levels.items())[:n_levels])
    folder = write_dicom(tmp_path / "wsis" / "case", levels)
    n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    (folder / "rest.dcm").write_bytes(b"rubbish")
    (slide,) = find_slides(tmp_path / "wsis", search_nested=search_nested)
    assert (slide.rel_path, slide.name, slide.size_bytes) == ("case", "case", n_bytes)
    assert f"{folder}: rest.dcm: no readable DICOM header, left out of the slide" in caplog.text
    assert source_bytes(folder, folder.stat()) == n_bytes
    with open_slide(folder) as opened:
        assert np.array_equal(opened.read_region((0, 0), 0, opened.dimensions), scene_levels[1])
        assert len(opened.level_dimensions) == n_levels
        assert [note.split(":")[0] for note in opened.notes] == ["rest.dcm"]


@pytest.mark.parametrize(
    ("others", "says"),
    [
        (("y-0.dcm",), "it holds 2 DICOM series"),
        (("preview.png",), "it holds other slides as well (preview.png)"),
        ((), "none of its .dcm files has a readable header"),
    ],
)
def test_a_folder_is_never_left_out_silently(
    others: tuple[str, ...],
    says: str,
    tmp_path: Path,
    write_dicom: Any,
    scene: np.ndarray,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_dicom(tmp_path, {1: scene}, series="1.1", name="here")
    folder = tmp_path / "case"
    if others:
        write_dicom(folder, {1: scene}, series="1.2", name="x")
    else:
        folder.mkdir()
        (folder / "a.dcm").write_bytes(b"rubbish")
    for name in others:
        if name.endswith(".dcm"):
            write_dicom(folder, {1: scene}, series="1.3", name="y")
        else:
            (folder / name).touch()
    assert names(tmp_path) == {"here-0.dcm": "here-0"}
    assert f"{folder}: left out, because {says}; --search_nested" in caplog.text
    caplog.clear()
    assert len(names(tmp_path, search_nested=True)) > 1
    assert not caplog.text


def test_files_without_a_series_count_each_by_itself(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"rubbish")
    (tmp_path / "b.dcm").write_bytes(b"rubbish")
    assert names(tmp_path) == {"a.dcm": "a", "b.dcm": "b"}


def test_a_slide_has_one_size_however_it_is_named(
    tmp_path: Path, write_dicom: Any, scene_levels: dict[int, np.ndarray]
) -> None:
    root = tmp_path / "wsis"
    write_dicom(root / "case", scene_levels, series="1.3")
    (root / "case" / "readme.txt").write_text("what the scanner says")
    write_dicom(root, scene_levels, series="1.1", name="flat")
    write_dicom(root, {1: scene_levels[4]}, series="1.2", name="alone")
    bytes_of = {
        "case": sum(path.stat().st_size for path in (root / "case").glob("*.dcm")),
        "flat": sum(path.stat().st_size for path in root.glob("flat-*.dcm")),
        "alone": (root / "alone-0.dcm").stat().st_size,
    }
    found = {slide.name: slide.size_bytes for slide in find_slides(root)}
    assert found == {"case": bytes_of["case"], "flat-0": bytes_of["flat"], "alone-0": bytes_of["alone"]}
    named = {"case": "case", "case/level-1.dcm": "case", "flat-2.dcm": "flat", "alone-0.dcm": "alone"}
    (tmp_path / "list.csv").write_text("wsi\n" + "".join(f"{name}\n" for name in named))
    listed = find_slides(root, custom_list=tmp_path / "list.csv")
    assert {slide.rel_path: slide.size_bytes for slide in listed} == {
        name: bytes_of[slide] for name, slide in named.items()
    }
    for name, slide in named.items():
        assert source_bytes(root / name, (root / name).stat()) == bytes_of[slide], name


def test_the_name_of_a_folder_has_no_extension(tmp_path: Path, write_dicom: Any, scene: np.ndarray) -> None:
    folders = ["TCGA-3C-DX1.F6E9A5DF", "TCGA-3C-DX1.0B6E1C2D"]
    for number, folder in enumerate(folders):
        write_dicom(tmp_path / "wsis" / folder, {1: scene, 4: scene[::4, ::4]}, series=f"1.{number}")
    (tmp_path / "list.csv").write_text("wsi\n" + "\n".join(folders))
    for options in ({}, {"search_nested": True}, {"custom_list": tmp_path / "list.csv"}):
        assert names(tmp_path / "wsis", **options) == {folder: folder for folder in folders}
    with open_slide(tmp_path / "wsis" / folders[0]) as slide:
        assert slide.name == folders[0]


def test_a_listed_folder(tmp_path: Path, write_dicom: Any, scene: np.ndarray) -> None:
    write_dicom(tmp_path / "wsis" / "case", {1: scene})
    (tmp_path / "list.csv").write_text("wsi,mpp\ncase,0.5\n")
    (slide,) = find_slides(tmp_path / "wsis", custom_list=tmp_path / "list.csv")
    assert (slide.rel_path, slide.name, slide.mpp) == ("case", "case", 0.5)
    assert slide.size_bytes == (tmp_path / "wsis" / "case" / "level-0.dcm").stat().st_size
