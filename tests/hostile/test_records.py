"""Locks, states and job files as somebody hostile might have left them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trident.errors import StoreError, TridentError
from trident.job import load_job
from trident.store.dead_locks import clear_dead_locks
from trident.store.layout import JobLayout
from trident.store.lock_holder import read_lock
from trident.store.states import SlideInfo, SlideStateFile, read_states, state_path

OneLine = Callable[[pytest.ExceptionInfo[TridentError], Path], str]

DEEP = "[" * 100_000
LONG_NUMBER = "9" * 5000
HOST = json.dumps(os.uname().nodename)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        DEEP.encode(),
        b'{"pid": 0, "hostname": "h"}',
        b'{"pid": -1, "hostname": %s}' % HOST.encode(),
        b'{"pid": %s, "hostname": %s}' % (b"9" * 30, HOST.encode()),
        b'{"pid": %s, "hostname": "h"}' % LONG_NUMBER.encode(),
        b'{"pid": 1.5, "hostname": "h"}',
        b'{"pid": 9, "hostname": "a\\nb", "created_at": "x\\u001b[31m\\ny"}',
        b'{"pid": 9, "hostname": "h", "created_at": "0001-01-01T00:00:00+23:59"}',
        b'{"pid": 9, "hostname": "h", "created_at": "9999-12-31T23:59:59-23:59"}',
        b'{"pid": 1, "hostname": %s, "started_ticks": %s}' % (HOST.encode(), b"9" * 50),
        b'{"pid": 9, "hostname": "\\ud800"}',
        b" " * (1 << 20) + b"{}",
    ],
)
def test_hostile_locks_are_described_in_one_line(tmp_path: Path, content: bytes, one_line: OneLine) -> None:
    path = tmp_path / "a.h5.lock"
    path.write_bytes(content)
    holder = read_lock(path)
    assert holder is not None
    assert "\n" not in holder.describe() and len(holder.describe()) <= 200


def test_a_lock_removes_nothing_but_itself(tmp_path: Path) -> None:
    """Whatever output it names, and wherever a link of its name leads."""
    outside = tmp_path / "outside.h5"
    outside.write_bytes(b"precious")
    job = tmp_path / "job"
    job.mkdir()
    (job / "a.h5.lock").write_text('{"pid": 999999999, "hostname": "elsewhere", "output": "../outside.h5"}')
    (job / "b.h5.lock").symlink_to(outside)
    asked: list[Path] = []
    os.utime(job / "a.h5.lock", (0, 0))

    def is_valid(path: Path) -> bool:
        asked.append(path)
        return True

    removed = clear_dead_locks(job, 1.0, is_valid)
    assert [path.name for path, _ in removed] == ["a.h5.lock"]
    assert all(path.parent == job for path in asked)
    assert outside.read_bytes() == b"precious"
    assert (job / "b.h5.lock").is_symlink()


def state_text(**changes: object) -> str:
    empty: dict[str, object] = {"slide": {}, "meta": {}, "tasks": {}, "summary": {}, "resume": {}}
    return json.dumps({"schema_version": 2, **empty, **changes})


@pytest.mark.parametrize(
    "content",
    [
        "",
        DEEP,
        "[]",
        state_text(schema_version="2"),
        state_text(tasks=[]),
        state_text(tasks={"coords": "x"}),
        state_text(tasks={"coords": {"attempts": "abc"}}),
        state_text(tasks={"coords": {"attempts": [{"attempt_id": {}}]}}),
        state_text(summary={"a": float("nan")}),
        state_text(summary={"a": 5}).replace("5", "1e999"),
        state_text(summary={"a": 5}).replace("5", LONG_NUMBER),
    ],
)
def test_a_hostile_state_file_is_put_aside(tmp_path: Path, content: str) -> None:
    layout, slide = JobLayout(tmp_path, "grid"), SlideInfo.of(Path("/wsis/a.svs"), "a")
    path = state_path(layout, slide)
    path.parent.mkdir()
    path.write_text(content)
    assert list(read_states(layout)) == []
    states = SlideStateFile.load_or_new(layout, slide)
    states.finish("coords", "completed", attempt_id=states.begin("coords"))
    assert states.read()["tasks"]["coords"]["status"] == "completed"
    assert path.with_name(path.name + ".damaged").read_text() == content


def job_text(**changes: object) -> str:
    return json.dumps({"settings": {"job_dir": "/tmp/x"}, "slides": [], "kinds": [], "nonce": "", **changes})


@pytest.mark.parametrize(
    "content",
    [
        "",
        DEEP,
        "[]",
        "5",
        '"x"',
        job_text(settings=[]),
        job_text(settings={"job_dir": "/tmp/x", "unknown": 1}),
        job_text(settings={"job_dir": "/tmp/x", "mag": "nan"}),
        job_text(slides=5),
        job_text(slides=["a"]),
        job_text(slides=[{"path": 5}]),
        job_text(slides=[{"path": "/a", "more": 1}]),
        job_text(kinds=5),
    ],
)
def test_hostile_job_files(tmp_path: Path, clean_settings: Path, content: str, one_line: OneLine) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    with pytest.raises(StoreError, match="not a readable job file") as error:
        load_job(path)
    one_line(error, path)
