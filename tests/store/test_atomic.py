"""Whole files or none, also when the writer is killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.store import atomic
from trident.store.atomic import atomic_path, remove_orphans, write_json, write_text

WRITER = """
import sys, time
from pathlib import Path
from trident.store.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as temp:
    temp.write_bytes(b"half")
    print(temp, flush=True)
    time.sleep(3600)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "er" / "slide.h5"
    for content in (b"one", b"two"):
        with atomic_path(final) as temp:
            assert temp.parent == final.parent
            assert temp.suffix == ".h5"
            assert temp.name.startswith(".")
            temp.write_bytes(content)
            assert not final.exists() or final.read_bytes() == b"one"
        assert final.read_bytes() == content
        assert names(final.parent) == ["slide.h5"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), StoreError("mine")])
def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    final = tmp_path / "a.json"
    final.write_text("old")
    with pytest.raises(type(error)), atomic_path(final) as temp:
        temp.write_text("new")
        raise error
    assert final.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a\.json: its temporary file is gone"), atomic_path(tmp_path / "a.json"):
        pass


@pytest.mark.parametrize("stem", ["x" * 248, "ü" * 124, "a b.c: d*[e]", "-rf", ".hidden"])
def test_any_name_that_the_disk_takes(tmp_path: Path, stem: str) -> None:
    final = tmp_path / f"{stem}.json"
    write_text(final, "x")
    assert names(tmp_path) == [final.name]


def make_file(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize(
    ("final", "prepare", "message"),
    [
        ("file/a.json", lambda folder: make_file(folder / "file"), "a file stands where a folder is needed"),
        ("a.json", lambda folder: (folder / "a.json").mkdir(), "a folder stands where this file belongs"),
        ("x" * 260 + ".json", lambda folder: None, "shorten the slide's file name"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path: Path, final: str, prepare: object, message: str) -> None:
    prepare(tmp_path)  # type: ignore[operator]
    before = names(tmp_path)
    with pytest.raises(StoreError) as caught:
        write_text(tmp_path / final, "x")
    assert message in str(caught.value)
    assert str(tmp_path / final) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="make the folder writable"):
        write_text(tmp_path / "a.txt", "x")


def test_a_full_disk(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            write_text(tmp_path / "a.txt", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "ü"], "b": {}}, [], "x\udcff", {"name": "\udc80ü"}])
def test_json_comes_back(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_json_keeps_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "z": 1,\n  "a": 2\n}\n'


@pytest.mark.parametrize("value", [float("nan"), {"a": {1, 2}}, object()])
def test_json_that_is_none(tmp_path: Path, value: object) -> None:
    with pytest.raises(StoreError, match="cannot be expressed as JSON"):
        write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


def test_a_killed_writer_leaves_an_orphan_that_is_removed_later(tmp_path: Path) -> None:
    final = tmp_path / "slide.h5"
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(final)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    temp = Path(child.stdout.readline().strip())
    assert temp.read_bytes() == b"half"
    assert remove_orphans(tmp_path) == []  # its writer lives
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not final.exists()
    (tmp_path / ".tmp.h5").write_text("not one of ours")
    assert remove_orphans(tmp_path) == [temp]
    assert names(tmp_path) == [".tmp.h5"]


def test_another_hosts_orphan_goes_after_a_day(tmp_path: Path) -> None:
    young, old = tmp_path / ".a.00000000-1-1f-01234567.tmp.h5", tmp_path / ".b.00000000-1--01234567.tmp.json"
    for path in (young, old):
        path.write_text("x")
    day_ago = time.time() - 24.1 * 3600
    os.utime(old, (day_ago, day_ago))
    assert remove_orphans(tmp_path) == [old]
    assert young.exists()


def test_orphans_of_a_reused_process_number(tmp_path: Path) -> None:
    mine = atomic.begin(tmp_path / "a.h5")
    stamp = mine.name.split("-")
    assert int(stamp[-2], 16) > 0
    reused = tmp_path / mine.name.replace(f"-{stamp[-2]}-", f"-{int(stamp[-2], 16) - 1:x}-")
    mine.write_text("x")
    reused.write_text("x")
    assert remove_orphans(tmp_path) == [reused]


def test_a_missing_folder_has_no_orphans(tmp_path: Path) -> None:
    assert remove_orphans(tmp_path / "none") == []
