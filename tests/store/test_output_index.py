"""What is remembered of files that were read, and when it is not believed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

import trident.store.output_index as module
from trident.store.output_index import OutputIndex, stamp_of
from trident.store.recipes import Recipe

STAMP = (10, 20, 30, 40)
RECIPE = Recipe(
    "coords", {"mag": 20, "nested": {"a": [1, 2.5, None]}}, {"tissue": "sha256:1"}, {"run": "r1", "host": "here"}
)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    (tmp_path / "job" / "grid").mkdir(parents=True)
    (tmp_path / "job" / ".trident").mkdir()
    return tmp_path / "job" / ".trident"


def _filled(private: Path) -> OutputIndex:
    index, folder = OutputIndex.load(private), str(private.parent / "grid")
    index.put_recipe(folder, "a.h5", STAMP, RECIPE)
    index.put_fact(folder, "a.h5", STAMP, "content", "sha256:2")
    index.put_recipe(folder, "foreign \t\n\udce9.h5", STAMP, None)
    index.put_fact(folder, "only a fact", STAMP, "stages", ["x", "y"])
    index.put_recipe("/elsewhere", "b.h5", STAMP, RECIPE)
    return index


def _check(index: OutputIndex, folder: str) -> None:
    known = index.recipe(folder, "a.h5", STAMP)
    assert known is not None
    assert known.recipe is not None
    assert (known.recipe.stage, known.recipe.settings, known.recipe.inputs) == (
        *(RECIPE.stage, RECIPE.settings),
        RECIPE.inputs,
    )
    assert known.recipe.facts == {"run": "r1"}
    assert index.fact(folder, "a.h5", STAMP, "content") == "sha256:2"
    foreign = index.recipe(folder, "foreign \t\n\udce9.h5", STAMP)
    assert foreign is not None
    assert foreign.recipe is None
    assert index.recipe(folder, "only a fact", STAMP) is None
    assert index.fact(folder, "only a fact", STAMP, "stages") == ["x", "y"]
    assert index.fact(folder, "a.h5", STAMP, "another") is None


def test_it_comes_back_as_it_was_also_where_the_job_was_moved(private: Path, tmp_path: Path) -> None:
    index = _filled(private)
    _check(index, str(private.parent / "grid"))
    index.save()
    _check(OutputIndex.load(private), str(private.parent / "grid"))
    (tmp_path / "job").rename(tmp_path / "moved")
    moved = OutputIndex.load(tmp_path / "moved" / ".trident")
    _check(moved, str(tmp_path / "moved" / "grid"))
    assert moved.recipe(str(tmp_path / "job" / "grid"), "a.h5", STAMP) is None


@pytest.mark.parametrize("position", range(4))
def test_another_stamp_is_another_file(position: int, private: Path) -> None:
    index, folder = _filled(private), str(private.parent / "grid")
    other = tuple(value + (number == position) for number, value in enumerate(STAMP))
    assert not index.has(folder, "a.h5", other)  # type: ignore[arg-type]
    assert index.recipe(folder, "a.h5", other) is None  # type: ignore[arg-type]
    assert index.fact(folder, "a.h5", other, "content") is None  # type: ignore[arg-type]
    index.put_fact(folder, "a.h5", other, "content", "sha256:3")  # type: ignore[arg-type]
    assert index.recipe(folder, "a.h5", other) is None  # type: ignore[arg-type] # the recipe was that of the old file
    assert index.fact(folder, "a.h5", STAMP, "content") is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\n",
        b"{}",
        b"\xff\x00" * 100,
        lambda whole: whole[:-1],
        lambda whole: whole + b" ",
        lambda whole: whole.replace(b"sha256:2", b"sha256:3"),
        lambda whole: whole.partition(b"\n")[2],
        lambda whole: whole.replace(b"index 1", b"index 2", 1),
    ],
)
def test_a_damaged_index_is_none(damage: object, private: Path) -> None:
    _filled(private).save()
    path = private / "output_index"
    path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)  # type: ignore[arg-type]
    index = OutputIndex.load(private)
    assert not index.has(str(private.parent / "grid"), "a.h5", STAMP)
    index.put_recipe(str(private.parent / "grid"), "a.h5", STAMP, RECIPE)
    index.save()
    assert OutputIndex.load(private).has(str(private.parent / "grid"), "a.h5", STAMP)


def test_the_index_of_another_version_is_none(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _filled(private).save()
    monkeypatch.setattr(module, "_FORMAT", "trident output index 1, program 99")
    assert not OutputIndex.load(private).has(str(private.parent / "grid"), "a.h5", STAMP)


def test_a_folder_in_its_place_or_no_permission_costs_only_a_warning(
    private: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (private / "output_index").mkdir()
    (private / "output_index" / "something").touch()
    index = _filled(private)
    with caplog.at_level(logging.WARNING):
        index.save()
    (line,) = caplog.messages
    assert "reads them again" in line
    assert str(private / "output_index") in line
    assert "Traceback" not in caplog.text


def test_what_is_gone_is_forgotten(private: Path) -> None:
    index, folder = _filled(private), str(private.parent / "grid")
    index.forget_all_but(folder, {"a.h5", "new"})
    assert index.has(folder, "a.h5", STAMP)
    assert not index.has(folder, "only a fact", STAMP)
    index.save()
    assert b"only a fact" not in (private / "output_index").read_bytes()
    assert b"/elsewhere" not in (private / "output_index").read_bytes()  # a folder that is not there


def test_an_unchanged_index_is_not_written_again(private: Path) -> None:
    index = _filled(private)
    index.save()
    before = (private / "output_index").stat()
    index.save()
    OutputIndex.load(private).save()
    after = (private / "output_index").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in private.iterdir()] == ["output_index"]


def test_an_untouched_file_has_one_stamp_and_a_touched_one_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = path.stat()
    assert stamp_of(path.stat()) == stamp_of(before)
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system may tick slowly
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert stamp_of(path.stat()) != stamp_of(before)
