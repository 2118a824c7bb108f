from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trident.errors import DiscoveryError
from trident.slides.discovery import SlideSource, find_slides


def make(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return root


def listed(slides: list[SlideSource]) -> list[str]:
    return [slide.rel_path for slide in slides]


def test_files_count_by_their_extension(tmp_path: Path) -> None:
    make(tmp_path, "b.svs", "A.TIFF", "c.ome.tif", "d.png", "notes.txt", ".hidden.svs", "sub/e.svs", "z.ome.zarr/0/0")
    (tmp_path / "dir.svs").mkdir()
    (tmp_path / "empty.svs").touch()
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere")
    slides = find_slides(tmp_path)
    assert listed(slides) == [
        "A.TIFF",
        "b.svs",
        "c.ome.tif",
        "d.png",
        "dir.svs",
        "empty.svs",
        "gone.svs",
        "z.ome.zarr",
    ]
    by_name = {slide.name: slide for slide in slides}
    assert by_name["b"] == SlideSource(tmp_path / "b.svs", "b.svs", "b", None, 5)
    assert by_name["c"].rel_path == "c.ome.tif"
    assert by_name["empty"].size_bytes == 0
    assert by_name["gone"].size_bytes == 0


@pytest.mark.parametrize("extensions", [["svs", ".tiff"], [".SVS", "TIFF"]])
def test_extensions_with_or_without_dot_in_any_case(extensions: list[str], tmp_path: Path) -> None:
    make(tmp_path, "a.svs", "b.TIFF", "c.tif")
    assert listed(find_slides(tmp_path, extensions=extensions)) == ["a.svs", "b.TIFF"]


def test_nested_search(tmp_path: Path) -> None:
    make(tmp_path, "x/a.svs", "x/y/b.svs", "c.svs", ".cache/d.svs", "z.ome.zarr/inside.tif")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "x" / "y")
    assert listed(find_slides(tmp_path)) == ["c.svs", "z.ome.zarr"]
    nested = listed(find_slides(tmp_path, search_nested=True))
    assert len(nested) == 4
    assert nested[0] == "c.svs"
    assert {path.rsplit("/", 1)[-1] for path in nested} == {"a.svs", "b.svs", "c.svs", "z.ome.zarr"}


def test_a_relative_folder_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "wsis/a.svs")
    monkeypatch.chdir(tmp_path)
    assert find_slides(Path("wsis"))[0].path == tmp_path / "wsis" / "a.svs"


def test_two_slides_with_one_name_are_an_error_with_both_paths(tmp_path: Path) -> None:
    make(tmp_path, "x/a.svs", "y/a.tiff", "b.svs")
    with pytest.raises(DiscoveryError) as caught:
        find_slides(tmp_path, search_nested=True)
    assert "x/a.svs" in str(caught.value)
    assert "y/a.tiff" in str(caught.value)
    assert "b.svs" not in str(caught.value)


def test_missing_folder_and_no_slide(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match=r"nowhere.*does not exist.*--wsi_dir"):
        find_slides(tmp_path / "nowhere")
    make(tmp_path, "file.txt", "sub/a.svs")
    with pytest.raises(DiscoveryError, match="not a folder"):
        find_slides(tmp_path / "file.txt")
    with pytest.raises(DiscoveryError, match=r"--search_nested.*--wsi_ext"):
        find_slides(tmp_path)
    with pytest.raises(DiscoveryError, match=r"\.ndpi.*--wsi_ext") as caught:
        find_slides(tmp_path, search_nested=True, extensions=["ndpi"])
    assert "--search_nested" not in str(caught.value)
    with pytest.raises(DiscoveryError, match="names no extension"):
        find_slides(tmp_path, extensions=["."])


def test_many_files_are_listed_as_quickly_as_few(
    tmp_path: Path, count_steps: Callable[[Callable[[], object]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trident.file_stats._SLOW_S", 1e9)  # all in this thread, which is watched
    steps = {}
    for n_files in (100, 1_000):
        for number in range(n_files):
            (tmp_path / f"slide_{number:05}.svs").touch()
        steps[n_files] = count_steps(lambda: find_slides(tmp_path))
        assert len(find_slides(tmp_path)) == n_files
    assert steps[1_000] < 12 * steps[100]


def write_csv(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_list_chooses_the_slides_and_their_resolution(tmp_path: Path) -> None:
    root = make(tmp_path / "wsis", "a.svs", "sub/b.svs", "c.odd", "unlisted.svs")
    rows = f"wsi, mpp ,site\nsub/b.svs,0.25,x\n\n{root / 'a.svs'},,y\n./c.odd\n"
    slides = find_slides(root, custom_list=write_csv(tmp_path, rows, "utf-8-sig"))
    assert [(slide.rel_path, slide.mpp) for slide in slides] == [("a.svs", None), ("c.odd", None), ("sub/b.svs", 0.25)]
    assert slides[2].path == root / "sub" / "b.svs"
    assert slides[2].size_bytes == 5


def test_blanks_around_a_name_are_dropped_unless_they_belong_to_it(tmp_path: Path) -> None:
    root = make(tmp_path / "wsis", "a.svs", " b.svs", "c.svs ")
    slides = find_slides(root, custom_list=write_csv(tmp_path, "wsi\n  a.svs \n b.svs\nc.svs \n"))
    assert sorted(listed(slides)) == [" b.svs", "a.svs", "c.svs "]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("slide,mpp\na.svs,0.5\n", "its columns are slide, mpp"),
        ("wsi\n\n", "names no slide"),
        ("wsi,mpp\n,0.5\n", "line 2: column `wsi` is blank"),
        ("wsi\na.svs\n../out.svs\n", "line 3: ../out.svs is not inside"),
        ("wsi\nsub/../../out.svs\n", "line 2: sub/../../out.svs is not inside"),
        ("wsi\n/etc/passwd\n", "line 2: /etc/passwd is not inside"),
        ("wsi\n.\n", "line 2: . is not inside"),
        ("wsi\na.svs\nb.svs\n./a.svs\n", "line 4: a.svs is on line 2 already"),
        ("wsi\na.svs\nmissing.svs\n", "line 3: missing.svs does not exist"),
        ('wsi\n"a\0b.svs"\n', "list.csv"),
        ("wsi,mpp\na.svs,zero\n", "line 2: mpp 'zero' is not a positive number"),
        ("wsi,mpp\na.svs,0\n", "line 2: mpp '0' is not a positive number"),
        ("wsi,mpp\na.svs,-0.5\nb.svs,inf\n", "line 3: mpp 'inf' is not a positive number"),
        ("wsi\na.svs\nsub/a.tiff\n", "a.svs, sub/a.tiff"),
    ],
)
def test_a_wrong_list_is_one_line_that_names_the_rows(text: str, words: str, tmp_path: Path) -> None:
    root = make(tmp_path / "wsis", "a.svs", "b.svs", "sub/a.tiff")
    make(tmp_path, "out.svs")
    with pytest.raises(DiscoveryError) as caught:
        find_slides(root, custom_list=write_csv(tmp_path, text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_wrong_rows_are_counted(tmp_path: Path) -> None:
    root = make(tmp_path / "wsis", "a.svs")
    text = "wsi\n" + "".join(f"no{number}.svs\n" for number in range(20))
    with pytest.raises(DiscoveryError, match=r"line 6: .*; and 15 lines more"):
        find_slides(root, custom_list=write_csv(tmp_path, text))


def test_a_list_that_is_missing_or_not_text(tmp_path: Path) -> None:
    root = make(tmp_path / "wsis", "a.svs")
    with pytest.raises(DiscoveryError, match=r"nowhere\.csv.*--custom_list_of_wsis"):
        find_slides(root, custom_list=tmp_path / "nowhere.csv")
    binary = tmp_path / "list.csv"
    binary.write_bytes(b"wsi\n\xff\xfe\x00.svs\n")
    with pytest.raises(DiscoveryError, match="not a UTF-8 CSV"):
        find_slides(root, custom_list=binary)


def test_given_extensions_must_allow_the_listed_files(tmp_path: Path) -> None:
    root = make(tmp_path / "wsis", "a.svs", "b.tiff")
    rows = write_csv(tmp_path, "wsi\na.svs\nb.tiff\n")
    assert listed(find_slides(root, custom_list=rows, extensions=["svs", "tiff"])) == ["a.svs", "b.tiff"]
    with pytest.raises(DiscoveryError, match=r"line 3: b\.tiff has none of the extensions"):
        find_slides(root, custom_list=rows, extensions=["svs"])


def test_the_images_of_a_vms_slide_are_no_slides(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a(1,0).jpg", "map.JPG", "macro.jpg", "own.jpg", "ngr.ngr")
    key = "[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile=a.jpg\r\nImageFile(1,0) = a(1,0).jpg\r\n"
    (tmp_path / "slide.vms").write_text(key + "MapFile=map.JPG\nMacroImage=macro.jpg\nImageFile(0,9)=gone.jpg\n")
    assert listed(find_slides(tmp_path)) == ["own.jpg", "slide.vms"]
    assert listed(find_slides(tmp_path, extensions=["jpg"])) == [
        "a(1,0).jpg",
        "a.jpg",
        "macro.jpg",
        "map.JPG",
        "own.jpg",
    ]


@pytest.mark.parametrize("search_nested", [False, True])
def test_an_omezarr_folder_is_a_slide_and_nothing_in_it_is(search_nested: bool, tmp_path: Path) -> None:
    make(tmp_path, "a.ome.zarr/0/0", "a.ome.zarr/OME/b.tif", "c.zarr/zarr.json", "c.zarr/0/zarr.json", "C.d.ZARR/x")
    slides = find_slides(tmp_path, search_nested=search_nested)
    assert [(slide.rel_path, slide.name) for slide in slides] == [
        ("C.d.ZARR", "C.d"),
        ("a.ome.zarr", "a"),
        ("c.zarr", "c"),
    ]
    assert {slide.name: slide.size_bytes for slide in slides} == {"C.d": 5, "a": 0, "c": 10}
    make(tmp_path, "sub/d.tif")
    assert listed(find_slides(tmp_path, search_nested=True, extensions=["tif"])) == ["sub/d.tif"]


def test_a_folder_that_was_only_glanced_at_may_be_unreadable(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    make(tmp_path, "a.svs", "locked/b.svs")
    (tmp_path / "locked").chmod(0)
    try:
        assert listed(find_slides(tmp_path)) == ["a.svs"]
        with pytest.raises(DiscoveryError, match="cannot be listed"):
            find_slides(tmp_path, search_nested=True)
    finally:
        (tmp_path / "locked").chmod(0o700)


@pytest.mark.parametrize("extension", [".ndpi", ".MRXS", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".sdpc"])
def test_scanners_formats_are_found(extension: str, tmp_path: Path) -> None:
    make(tmp_path, f"a{extension}", "a/Slidedat.ini", "a/Data0000.dat", "a/Index.dat")
    (slide,) = find_slides(tmp_path, search_nested=True)
    assert (slide.rel_path, slide.name) == (f"a{extension}", "a")
