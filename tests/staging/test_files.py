"""Which files belong to a slide."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pydicom
import pytest

from trident.staging.files import is_unchanged, slide_files
from trident.staging.problems import NotStagedError

VMS = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=2
ImageFile=a_00.jpg
ImageFile(1,0)=a_10.jpg
MapFile = a_map.jpg
OptimisationFile=a.opt
MacroImage=absent.jpg
PhysicalWidth=/not/a/file
"""

TREES = {
    "single file": ("a.svs", ["a.svs", "b.svs", "a/x.dat"], ["a.svs"]),
    "OME-TIFF": ("a.ome.tif", ["a.ome.tif", "a.tif"], ["a.ome.tif"]),
    "MIRAX": (
        "a.mrxs",
        ["a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "b/Index.dat", "b.mrxs"],
        ["a.mrxs", "a/Data0000.dat", "a/Slidedat.ini"],
    ),
    "MIRAX in capitals": ("A.MRXS", ["A.MRXS", "A/Index.dat"], ["A.MRXS", "A/Index.dat"]),
    "MIRAX without its folder": ("a.mrxs", ["a.mrxs"], ["a.mrxs"]),
    "Zarr": (
        "a.ome.zarr",
        ["a.ome.zarr/.zattrs", "a.ome.zarr/0/0/0/0", "a.ome.zarr/0/.zarray", "b.ome.zarr/.zattrs"],
        ["a.ome.zarr/.zattrs", "a.ome.zarr/0/.zarray", "a.ome.zarr/0/0/0/0"],
    ),
    "Hamamatsu": (
        "a.vms",
        ["a_00.jpg", "a_10.jpg", "a_map.jpg", "a.opt", "other.jpg"],
        ["a.vms", "a.opt", "a_00.jpg", "a_10.jpg", "a_map.jpg"],
    ),
    "a cache in the slide's own folder": (
        "a.mrxs",
        ["a.mrxs", "a/Index.dat", "a/.trident-slide-cache-0/slots/0000/slide/a.mrxs"],
        ["a.mrxs", "a/Index.dat"],
    ),
}


def grow(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


@pytest.mark.parametrize(("slide", "there", "expected"), TREES.values(), ids=TREES)
def test_companions(tmp_path: Path, slide: str, there: list[str], expected: list[str]) -> None:
    grow(tmp_path, there)
    if slide.endswith(".vms"):
        (tmp_path / slide).write_text(VMS)
    found = slide_files(tmp_path / slide)
    assert [file.rel_path for file in found.files] == expected
    assert (found.folder, found.name) == (tmp_path, slide)
    assert found.size_bytes == sum((tmp_path / name).stat().st_size for name in expected)


@pytest.mark.parametrize("value", ["../secret.jpg", "/etc/passwd", "..", "sub/a.jpg", "sub\\a.jpg", "a\0b"])
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, value: str) -> None:
    slide = tmp_path / "slides" / "a.vmu"
    slide.parent.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    slide.write_text(f"[Uncompressed Virtual Microscope Specimen]\nImageFile={value}\n")
    with pytest.raises(NotStagedError, match="another folder"):
        slide_files(slide)


def test_an_index_in_any_encoding(tmp_path: Path) -> None:
    name = os.fsdecode(b"\x83X_00.jpg")  # Shift-JIS
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.vms").write_bytes(b"ImageFile=\x83X_00.jpg\r\n")
    assert [file.rel_path for file in slide_files(tmp_path / "a.vms").files] == ["a.vms", name]


def test_an_enormous_index_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "a.vms").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(NotStagedError, match="too large"):
        slide_files(tmp_path / "a.vms")


def test_what_is_no_plain_file_is_not_copied(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "folder.svs").mkdir()
    circle = tmp_path / "a.ome.zarr"
    circle.mkdir()
    (circle / "again").symlink_to(circle)
    for name in ("pipe.svs", "folder.svs", "a.ome.zarr", "b.ome.zarr/0"):
        with pytest.raises(NotStagedError):
            slide_files(tmp_path / name)
    for name in ("absent.svs", "absent.ome.zarr", "absent.vms", "absent.dcm"):
        with pytest.raises(FileNotFoundError):
            slide_files(tmp_path / name)


def test_a_dicom_series_is_told_by_its_content(tmp_path: Path, shared_slides: Path) -> None:
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        shutil.copyfile(shared_slides / name, tmp_path / name)
    (tmp_path / "boxes_1.dcm").rename(tmp_path / "no extension")
    other = pydicom.dcmread(shared_slides / "boxes_1.dcm")
    other.SeriesInstanceUID = "1.2.3.4"
    other.save_as(tmp_path / "other.dcm")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "damaged.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    (tmp_path / "folder").mkdir()
    assert [f.rel_path for f in slide_files(tmp_path / "boxes_0.dcm").files] == ["boxes_0.dcm", "no extension"]
    assert [f.rel_path for f in slide_files(tmp_path / "other.dcm").files] == ["other.dcm"]
    (tmp_path / "no extension").unlink()
    os.utime(tmp_path, (1, 1))  # a folder that has changed is looked at again; its clock may be too coarse for a test
    assert [f.rel_path for f in slide_files(tmp_path / "boxes_0.dcm").files] == ["boxes_0.dcm"]
    folder = slide_files(tmp_path)  # a folder may be a slide: all of its DICOM files, and nothing else
    assert [f.rel_path for f in folder.files] == [f"{tmp_path.name}/{name}" for name in ("boxes_0.dcm", "other.dcm")]
    with pytest.raises(NotStagedError, match="not a readable DICOM file"):
        slide_files(tmp_path / "damaged.dcm")


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    grow(tmp_path, ["a.mrxs", "a/Index.dat"])
    before = slide_files(tmp_path / "a.mrxs")
    assert is_unchanged(tmp_path, before.witnesses)
    status = (tmp_path / "a/Index.dat").stat()
    os.utime(tmp_path / "a/Index.dat", ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    assert not is_unchanged(tmp_path, before.witnesses)
    os.utime(tmp_path / "a/Index.dat", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert is_unchanged(tmp_path, before.witnesses)
    with (tmp_path / "a/Index.dat").open("ab") as file:
        file.write(b"x")
    os.utime(tmp_path / "a/Index.dat", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not is_unchanged(tmp_path, before.witnesses)


def test_a_store_of_many_files_is_recognised_by_a_few(tmp_path: Path) -> None:
    grow(tmp_path, ["a.ome.zarr/.zattrs", *(f"a.ome.zarr/0/{index}" for index in range(200))])
    found = slide_files(tmp_path / "a.ome.zarr")
    assert len(found.files) == 201
    assert len(found.witnesses) == 64
    assert found.witnesses[0].rel_path == "a.ome.zarr/.zattrs"
