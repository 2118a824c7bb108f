"""The guard keeps processes apart."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.store import guards
from trident.store.guards import file_guard, folder_guard

COUNTER = """
import sys
from pathlib import Path
from trident.store.guards import file_guard
folder = Path(sys.argv[1])
for _ in range(60):
    with file_guard(folder / "guard") as held:
        assert held
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""


def test_no_increment_is_lost_between_processes(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    children = [subprocess.Popen([sys.executable, "-c", COUNTER, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(600) for child in children] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "180"


def test_folder_guard_leaves_no_file_among_the_outputs(tmp_path: Path) -> None:
    with folder_guard(tmp_path / "new") as held:
        assert held
    assert list((tmp_path / "new").iterdir()) == []


def test_a_guard_that_is_never_given_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "WAIT_S", 0.05)
    with (
        file_guard(tmp_path / "guard"),
        pytest.raises(StoreError, match=r"guard: another process has kept"),
        file_guard(tmp_path / "guard"),
    ):
        pass


def test_without_flock_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with file_guard(tmp_path / "guard") as held:
            assert held is False
    assert len([record for record in caplog.records if "has no flock" in record.message]) == 1


def test_a_guard_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"), file_guard(tmp_path / "file" / "guard"):
        pass
