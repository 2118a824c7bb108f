"""Outputs looked at one by one or together: the same answers."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.store import output_view
from trident.store.output_index import OutputIndex
from trident.store.output_view import DISK, ListedOutputs
from trident.store.recipes import Recipe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of all sorts; what is read from them is kept at once."""
    monkeypatch.setattr(output_view, "SETTLED_S", 0.0)
    folder = tmp_path / "job" / "out"
    folder.mkdir(parents=True)
    (folder / "file").write_text("one")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / "file")
    (folder / "broken").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    return folder


@pytest.fixture
def index(tmp_path: Path) -> OutputIndex:
    return OutputIndex.load(tmp_path / "job" / ".trident")


NAMES = ["file", "folder", "link", "broken", "loop", "missing", "file/inside", "../out/file", "no folder/file"]


@pytest.mark.parametrize("looked_at", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_existence_is_that_of_the_disk(name: str, looked_at: bool, folder: Path, index: OutputIndex) -> None:
    view = ListedOutputs(index)
    if looked_at:
        view.look([folder / name for name in NAMES])
    assert view.exists(folder / name) == DISK.exists(folder / name) == (folder / name).exists()


def test_a_folder_that_cannot_be_listed_is_asked_file_by_file(
    folder: Path, index: OutputIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    view = ListedOutputs(index)
    view.look([folder / "file", folder / "missing"])
    assert [view.exists(folder / name) for name in ("file", "missing", "link", "broken")] == [True, False, True, False]


def test_an_answer_that_is_neither_yes_nor_no_reaches_the_caller(
    folder: Path, index: OutputIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def fail(path: object, **more: object) -> os.stat_result:
        if str(path).endswith("file"):
            raise OSError(5, "Input/output error", str(path))
        return stat(path, **more)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "stat", fail)
    view = ListedOutputs(index)
    view.look([folder / "file"])
    with pytest.raises(StoreError, match=f"^{folder / 'file'}: .*Input/output"):
        view.exists(folder / "file")


@pytest.mark.parametrize(
    ("there", "asked"), [("Slide.h5", "slide.H5"), ("é.h5", unicodedata.normalize("NFD", "é.h5")), ("ﬁ.h5", "fi.h5")]
)
def test_names_that_some_file_systems_take_for_one_are_asked_for(there: str, asked: str, folder: Path) -> None:
    (folder / there).touch()
    listed = output_view._Folder(str(folder))
    assert listed.may_have(there)
    assert listed.may_have(asked)
    assert not listed.may_have("another.h5")


def test_a_file_is_read_once_while_it_stays_as_it_is(folder: Path, index: OutputIndex) -> None:
    path, reads = folder / "file", []

    def read() -> str:
        reads.append(path.read_text())
        return reads[-1]

    def ask() -> str:
        view = ListedOutputs(index)
        view.look([path])
        return view.fact(path, "text", read)

    assert [ask(), ask(), ask()] == ["one"] * 3
    assert reads == ["one"]
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_text("two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same date
    assert [ask(), ask()] == ["two"] * 2
    assert reads == ["one", "two"]
    assert ListedOutputs(index).fact(path, "text", lambda: "read") == "read"  # not looked at: read


def test_recipes_are_kept_and_so_is_that_there_is_none(folder: Path, index: OutputIndex) -> None:
    recipe = Recipe("coords", {"mag": 20}, {"tissue": "1"}, {"run": "r"})
    for name, found in (("file", recipe), ("link", None)):
        for read in (lambda found=found: found, lambda: pytest.fail("read again")):
            view = ListedOutputs(index)
            view.look([folder / name])
            assert view.recipe(folder / name, read) == found
            assert view.knows(folder / name)


def test_what_a_failed_reading_gave_is_not_kept(folder: Path, index: OutputIndex) -> None:
    def damaged() -> str:
        raise StoreError("damaged")

    for _ in range(2):
        view = ListedOutputs(index)
        view.look([folder / "file"])
        with pytest.raises(StoreError):
            view.fact(folder / "file", "text", damaged)
        assert not view.knows(folder / "file")


def test_a_file_that_has_just_changed_or_changes_meanwhile_is_not_kept(
    folder: Path, index: OutputIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "file"
    view = ListedOutputs(index)
    view.look([path])
    assert view.fact(path, "text", lambda: str(path.write_text("longer"))) == "6"
    assert not view.knows(path)
    monkeypatch.setattr(output_view, "SETTLED_S", 3600.0)
    view.look([path])
    assert view.fact(path, "text", path.read_text) == "longer"
    assert not view.knows(path)


def test_missing_files_are_known(folder: Path, index: OutputIndex) -> None:
    view = ListedOutputs(index)
    view.look([folder / "missing", folder / "file"])
    assert view.knows(folder / "missing")
    assert not view.knows(folder / "file")
