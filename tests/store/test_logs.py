"""One line a slide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.store.logs import record

CHILD = """
import sys
from pathlib import Path
from trident.store.logs import record
for i in range(40):
    record(Path(sys.argv[1]), f"{sys.argv[2]}-{i % 20}.svs", f"done {i}")
"""


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_slide_has_one_line_the_latest(tmp_path: Path) -> None:
    log = tmp_path / "grid" / "_logs_coords.txt"
    record(log, "a.svs", "first")
    record(log, "ba.svs", "other: a.svs: not mine")
    record(log, "a.svs", "second\nline\ttwo")
    assert sorted(lines(log)) == ["a.svs: second line two", "ba.svs: other: a.svs: not mine"]
    record(log, "ba.svs", "done")
    assert sorted(lines(log)) == ["a.svs: second line two", "ba.svs: done"]


@pytest.mark.parametrize("before", [b"x.svs: cut o", b"x.svs: old\n\nb.svs: cut", b"\xff\xfe: odd\n"])
def test_a_log_that_was_cut_off_goes_on(tmp_path: Path, before: bytes) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(before)
    record(log, "a.svs", "done")
    content = log.read_bytes()
    assert content.endswith(b"\na.svs: done\n")
    assert content.startswith(before.split(b"\n")[0])


def test_processes_lose_no_line(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    children = [subprocess.Popen([sys.executable, "-c", CHILD, str(log), name]) for name in "ab"]
    assert [child.wait(600) for child in children] == [0, 0]
    assert sorted(lines(log)) == sorted(f"{name}-{i}.svs: done {i + 20}" for name in "ab" for i in range(20))


def test_a_log_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(StoreError, match=r"log\.txt: cannot be written"):
        record(tmp_path / "log.txt", "a.svs", "x")
