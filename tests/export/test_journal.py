"""What an export remembers of its own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.export.journal import JOURNAL_NAME, Journal


def _written(folder: Path, name: str, source: str, content: bytes = b"content") -> Path:
    path = folder / name
    path.write_bytes(content)
    Journal(folder).note(name, path, source)
    return path


def test_a_file_is_done_while_it_stands_as_it_was_written(tmp_path: Path) -> None:
    path = _written(tmp_path, "a.pt", "digest")
    assert Journal(tmp_path).is_done(path, "digest")
    assert not Journal(tmp_path).is_done(path, "other")
    os.utime(path, ns=(0, 0))
    assert not Journal(tmp_path).is_done(path, "digest")
    assert Journal(tmp_path).is_own(path)
    path.unlink()
    assert not Journal(tmp_path).is_done(path, "digest")


def test_a_line_whose_file_never_got_its_name_does_not_count(tmp_path: Path) -> None:
    old = _written(tmp_path, "a.pt", "old")
    (tmp_path / "temporary").write_bytes(b"content")  # as large as the old one
    os.utime(tmp_path / "temporary", ns=(1, 1))
    Journal(tmp_path).note("a.pt", tmp_path / "temporary", "new")
    assert Journal(tmp_path).is_done(old, "old")
    assert not Journal(tmp_path).is_done(old, "new")


@pytest.mark.parametrize(
    "damage",
    [
        b"{torn",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"file": "a.pt"}',
        b'{"file": "a.pt", "source": "x", "bytes": "y"}',
        b"[" * 99999,
    ],
)
def test_damaged_lines_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    first = _written(tmp_path, "a.pt", "1")
    with (tmp_path / JOURNAL_NAME).open("ab") as file:
        file.write(damage)
    second = _written(tmp_path, 'b "\n.pt', "2")
    journal = Journal(tmp_path)
    assert (journal.is_done(first, "1"), journal.is_done(second, "2")) == (True, True)


def test_a_folder_without_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none")
    assert not journal.is_own(tmp_path / "none" / "a.pt")


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "a" / JOURNAL_NAME).mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be read"):
        Journal(tmp_path / "a")
    journal = Journal(tmp_path)
    (tmp_path / JOURNAL_NAME).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b.pt").touch()
    with pytest.raises(StoreError, match="a link stands where this file belongs"):
        journal.note("b.pt", tmp_path / "b.pt", "x")
    assert not (tmp_path / "elsewhere").exists()
