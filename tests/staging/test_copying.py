"""Copies are whole, private, and of one state of the slide."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from trident.staging.copying import Check, copy_file, copy_slide, go_on
from trident.staging.files import slide_files
from trident.staging.problems import NoRoomError, NotStagedError, StoppedError


@pytest.fixture
def mirax(tmp_path: Path) -> Path:
    slide = tmp_path / "slow" / "a.mrxs"
    (tmp_path / "slow" / "a" / "deep").mkdir(parents=True)
    slide.write_bytes(b"main")
    (tmp_path / "slow" / "a" / "Data0.dat").write_bytes(bytes(range(256)) * 70_000)  # more than two chunks
    (tmp_path / "slow" / "a" / "deep" / "empty").write_bytes(b"")
    return slide


def test_a_copy_is_whole_and_private(tmp_path: Path, mirax: Path) -> None:
    for path in mirax.parent.rglob("*"):
        path.chmod(0o777)
    calls = []
    copy_slide(slide_files(mirax), tmp_path / "copy", copy_file, lambda: calls.append(1))
    copies = {path.relative_to(tmp_path / "copy"): path for path in (tmp_path / "copy").rglob("*")}
    originals = {path.relative_to(mirax.parent): path for path in mirax.parent.rglob("*")}
    assert copies.keys() == originals.keys()
    for name, path in copies.items():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert path.is_dir() or path.read_bytes() == originals[name].read_bytes()
    assert len(calls) == 3 + 1 + 3  # before each file, and for each 8 MiB of the main file (1) and the data (3)


def test_many_files_are_copied_too(tmp_path: Path) -> None:
    store = tmp_path / "a.ome.zarr"
    store.mkdir()
    for index in range(300):
        (store / str(index)).write_bytes(str(index).encode())
    copy_slide(slide_files(store), tmp_path / "copy", copy_file, go_on)
    copied = {int(path.name): path.read_bytes() for path in (tmp_path / "copy" / "a.ome.zarr").iterdir()}
    assert copied == {index: str(index).encode() for index in range(300)}


def grows(source: Path, target: Path, check: Check) -> None:
    with source.open("ab") as file:
        file.write(b"more")
    copy_file(source, target, check)


def is_touched(source: Path, target: Path, check: Check) -> None:
    copy_file(source, target, check)
    source.write_bytes(source.read_bytes()[::-1])


def is_cut_off(source: Path, target: Path, check: Check) -> None:
    target.write_bytes(source.read_bytes()[:-1])


@pytest.mark.parametrize("copy", [grows, is_touched, is_cut_off])
def test_what_changes_meanwhile_is_no_copy(tmp_path: Path, mirax: Path, copy: object) -> None:
    with pytest.raises(NotStagedError, match="it changed while it was copied"):
        copy_slide(slide_files(mirax), tmp_path / "copy", copy, go_on)  # type: ignore[arg-type]


def test_a_file_that_vanishes_is_an_error(tmp_path: Path, mirax: Path) -> None:
    files = slide_files(mirax)
    (mirax.parent / "a" / "Data0.dat").unlink()
    with pytest.raises(FileNotFoundError):
        copy_slide(files, tmp_path / "copy", copy_file, go_on)


def test_a_slide_larger_than_the_disk_is_not_begun(tmp_path: Path, huge: Callable[[Path], None]) -> None:
    huge(tmp_path / "huge.svs")
    with pytest.raises(NoRoomError, match="takes 1,048,577 bytes, and 1,048,576 are free"):
        copy_slide(slide_files(tmp_path / "huge.svs"), tmp_path / "copy", copy_file, go_on)
    assert not (tmp_path / "copy").exists()


def test_a_copy_can_be_stopped(tmp_path: Path, mirax: Path) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        copy_slide(slide_files(mirax), tmp_path / "copy", copy_file, check)
    assert (tmp_path / "copy" / "a" / "Data0.dat").stat().st_size < 256 * 70_000
