"""The state file of one slide."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trident import __version__
from trident.errors import StoreError
from trident.store import states as states_module
from trident.store.layout import JobLayout
from trident.store.states import MAX_ATTEMPTS, SlideInfo, SlideStateFile, read_states, state_path

SLIDE = SlideInfo.of(Path("/slides/deep/a.b.svs"), "a.b", "deep/a.b.svs", "cucim")

CHILD = """
import sys
from pathlib import Path
from trident.store.layout import JobLayout
from trident.store.states import SlideInfo, SlideStateFile
layout = JobLayout(Path(sys.argv[1]), "grid")
states = SlideStateFile.load_or_new(layout, SlideInfo.of(Path("/slides/deep/a.b.svs"), "a.b"))
for i in range(20):
    states.begin(sys.argv[2])
    states.set_summary({f"{sys.argv[2]}-{i}": i})
    states.finish(sys.argv[2], "completed")
"""


@pytest.fixture
def layout(tmp_path: Path) -> JobLayout:
    return JobLayout(tmp_path / "job", "grid")


def content(states: SlideStateFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(states.path.read_text(encoding="utf-8"))
    return found


def test_a_new_file_has_every_key_of_the_contract(layout: JobLayout) -> None:
    states = SlideStateFile.load_or_new(layout, SLIDE)
    digest = hashlib.sha1(b"/slides/deep/a.b.svs").hexdigest()[:12]
    assert states.path == layout.job_dir / "wsi_states" / f"a.b__{digest}.json"
    found = content(states)
    keys = ["schema_version", "trident_version", "slide", "meta", "tasks", "summary", "resume", "updated_at"]
    assert sorted(found) == sorted(keys)
    assert found["schema_version"] == 2
    assert found["trident_version"] == __version__
    assert found["slide"] == {
        "id": f"a.b__{digest}",
        "name": "a.b",
        "ext": ".svs",
        "abs_path": "/slides/deep/a.b.svs",
        "rel_path": "deep/a.b.svs",
        "reader_type": "cucim",
    }
    assert set(found["meta"]) == {"dimensions", "mpp", "mag", "level_count"}
    assert set(found["resume"]) == {"last_task", "last_status", "last_updated_at", "last_error"}


@pytest.mark.parametrize(
    ("path", "name", "ext"),
    [("/s/a.ome.tif", "a", ".ome.tif"), ("/s/a.svs", "a", ".svs"), ("/s/x/a.svs", "x__a", ".svs"), ("/s/a", "a", "")],
)
def test_extensions(path: str, name: str, ext: str) -> None:
    assert SlideInfo.of(Path(path), name).ext == ext


def test_a_task_from_begin_to_end(layout: JobLayout, tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    output.write_bytes(b"12345")
    states = SlideStateFile.load_or_new(layout, SLIDE)
    attempt_id = states.begin("coords")
    task = content(states)["tasks"]["coords"]
    assert task["status"] == "running"
    assert task["attempts"][0]["finished_at"] is None
    assert content(states)["resume"]["last_status"] == "running"
    states.finish(
        "coords", "completed", message="7 patches", outputs={"coords": output, "image": tmp_path / "none.jpg"}
    )
    task = content(states)["tasks"]["coords"]
    assert (task["status"], task["message"], task["reason"]) == ("completed", "7 patches", None)
    (attempt,) = task["attempts"]
    assert sorted(attempt) == sorted(["attempt_id", "started_at", "finished_at", "duration_s", "result", "error"])
    assert attempt["attempt_id"] == attempt_id
    assert attempt["result"] == "completed"
    assert attempt["finished_at"] >= attempt["started_at"]
    assert 0 <= attempt["duration_s"] < 60
    assert task["outputs"] == {
        "coords": {"path": str(output), "exists": True, "bytes": 5},
        "image": {"path": str(tmp_path / "none.jpg"), "exists": False, "bytes": None},
    }
    states.finish("coords", "skipped", reason="exists")
    task = content(states)["tasks"]["coords"]
    assert (task["status"], task["reason"], len(task["attempts"])) == ("skipped", "exists", 1)
    assert task["outputs"]["coords"]["exists"] is True


def test_an_error_and_the_way_out_of_it(layout: JobLayout) -> None:
    states = SlideStateFile.load_or_new(layout, SLIDE)
    states.begin("coords")
    states.finish("coords", "error", error="no disk at https://me:pw@host")
    found = content(states)
    assert found["tasks"]["coords"]["attempts"][0]["error"] == "no disk at https://[removed]@host"
    assert found["resume"]["last_task"] == "coords"
    assert found["resume"]["last_status"] == "error"
    assert found["resume"]["last_error"] == "no disk at https://[removed]@host"
    states.begin("coords")
    states.finish("coords", "completed")
    found = content(states)
    assert [attempt["result"] for attempt in found["tasks"]["coords"]["attempts"]] == ["error", "completed"]
    assert found["resume"]["last_error"] is None


def test_an_error_before_the_beginning_is_an_attempt(layout: JobLayout) -> None:
    states = SlideStateFile.load_or_new(layout, SLIDE)
    states.finish("segmentation", "error", error="does not open")
    (attempt,) = content(states)["tasks"]["segmentation"]["attempts"]
    assert (attempt["result"], attempt["error"]) == ("error", "does not open")
    states.finish("coords", "skipped")
    assert content(states)["tasks"]["coords"]["attempts"] == []


def test_an_attempt_that_crashed_is_closed_at_the_next_beginning(layout: JobLayout) -> None:
    SlideStateFile.load_or_new(layout, SLIDE).begin("coords")
    later = SlideStateFile.load_or_new(layout, SLIDE)
    later.begin("patch_features:uni_v1")
    assert content(later)["tasks"]["coords"]["status"] == "running"
    later.begin("coords")
    first, second = content(later)["tasks"]["coords"]["attempts"]
    assert (first["result"], first["error"], first["duration_s"]) == ("error", "interrupted", None)
    assert first["finished_at"] is not None
    assert second["finished_at"] is None


def test_another_object_may_finish_what_one_began(layout: JobLayout) -> None:
    attempt_id = SlideStateFile.load_or_new(layout, SLIDE).begin("coords")
    states = SlideStateFile.load_or_new(layout, SLIDE)
    states.finish("coords", "completed", attempt_id=attempt_id)
    (attempt,) = content(states)["tasks"]["coords"]["attempts"]
    assert 0 <= attempt["duration_s"] < 60


def test_attempts_are_bounded(layout: JobLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trident.store.states.MAX_ATTEMPTS", 3)
    states = SlideStateFile.load_or_new(layout, SLIDE)
    for number in range(5):
        states.finish("coords", "error", error=f"no {number}")
    assert [attempt["error"] for attempt in content(states)["tasks"]["coords"]["attempts"]] == ["no 2", "no 3", "no 4"]
    assert MAX_ATTEMPTS > 3


@pytest.mark.parametrize("status", ["running", "done", "not_started"])
def test_another_status_is_refused(layout: JobLayout, status: str) -> None:
    states = SlideStateFile.load_or_new(layout, SLIDE)
    with pytest.raises(ValueError, match="a task ends"):
        states.finish("coords", status)
    assert content(states)["tasks"] == {}


def test_meta_and_summary(layout: JobLayout) -> None:
    states = SlideStateFile.load_or_new(layout, SlideInfo.of(Path("/slides/a.svs"), "a"))
    states.set_meta(dimensions=(100, 50), mpp=0.25, mag=40, level_count=3, reader_type="openslide")
    states.set_summary({"patches": 7})
    states.set_summary({"notes": ["x"], "token": "y"})
    SlideStateFile.load_or_new(layout, SlideInfo.of(Path("/slides/a.svs"), "a"))
    found = content(states)
    assert found["meta"] == {"dimensions": [100, 50], "mpp": 0.25, "mag": 40, "level_count": 3}
    assert found["slide"]["reader_type"] == "openslide"
    assert found["summary"] == {"patches": 7, "notes": ["x"]}


def test_processes_lose_none_of_each_others_changes(layout: JobLayout) -> None:
    tasks = ["segmentation", "coords", "patch_features:uni_v1"]
    command = [sys.executable, "-c", CHILD, str(layout.job_dir)]
    children = [subprocess.Popen([*command, task]) for task in tasks]
    assert [child.wait(600) for child in children] == [0, 0, 0]
    states = SlideStateFile.load_or_new(layout, SLIDE)
    found = content(states)
    assert found["summary"] == {f"{task}-{i}": i for task in tasks for i in range(20)}
    for task in tasks:
        assert [attempt["result"] for attempt in found["tasks"][task]["attempts"]] == ["completed"] * 20


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"schema_version": 2',
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"schema_version": 1}',
        b'{"schema_version": 2, "slide": {}, "meta": {}, "tasks": [], "summary": {}, "resume": {}}',
        b'{"schema_version": 2, "slide": {}, "meta": {}, "tasks": {"coords": 1}, "summary": {}, "resume": {}}',
        b'{"schema_version": 2, "slide": {}, "meta": {}, "tasks": {"coords": {"attempts": [{}]}}, "summary": {},'
        b' "resume": {}}',
    ],
)
def test_a_damaged_file_is_kept_aside(layout: JobLayout, caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    path = SlideStateFile.load_or_new(layout, SLIDE).path
    path.write_bytes(damage)
    assert list(read_states(layout)) == []
    states = SlideStateFile(layout, SLIDE)
    with pytest.raises(StoreError, match="damaged"):
        states.read()
    states.begin("coords")
    states.finish("coords", "completed")
    assert content(states)["tasks"]["coords"]["status"] == "completed"
    assert path.with_name(path.name + ".damaged").read_bytes() == damage
    assert "is kept as" in caplog.text


def test_dates_of_another_tool(layout: JobLayout) -> None:
    states = SlideStateFile.load_or_new(layout, SLIDE)
    states.begin("coords")
    found = content(states)
    found["tasks"]["coords"]["attempts"][0]["started_at"] = "yesterday"
    states.path.write_text(json.dumps(found))
    SlideStateFile.load_or_new(layout, SLIDE).finish("coords", "completed")
    (attempt,) = content(states)["tasks"]["coords"]["attempts"]
    assert (attempt["result"], attempt["duration_s"]) == ("completed", None)


def test_states_of_a_job(layout: JobLayout) -> None:
    assert list(read_states(layout)) == []
    for name in ("b", "a"):
        SlideStateFile.load_or_new(layout, SlideInfo.of(Path(f"/slides/{name}.svs"), name)).begin("coords")
    assert [state["slide"]["name"] for state in read_states(layout)] == ["a", "b"]


def test_a_state_that_was_never_written(layout: JobLayout) -> None:
    assert SlideStateFile(layout, SLIDE).read()["tasks"] == {}
    assert not layout.states_dir.exists()


def test_a_locale_that_is_not_utf8_makes_and_finds_the_same_file(tmp_path: Path) -> None:
    states = SlideStateFile.load_or_new(JobLayout(tmp_path, "grid"), SlideInfo.of(Path("/slides/ü-雪.svs"), "ü-雪"))
    code = """
import os, sys
from pathlib import Path
from trident.store.layout import JobLayout
from trident.store.states import SlideInfo, SlideStateFile
slide = SlideInfo.of(Path("/slides") / sys.argv[2], sys.argv[2].removesuffix(".svs"))
states = SlideStateFile.load_or_new(JobLayout(Path(sys.argv[1]), "grid"), slide)
assert sys.getfilesystemencoding() == "ascii" and states.path.is_file()
sys.stdout.buffer.write(os.fsencode(states.path))
"""
    ascii_locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, "ü-雪.svs"], env=ascii_locale, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert Path(os.fsdecode(done.stdout)) == states.path


@pytest.mark.parametrize("name", ["x" * 251, "ü" * 125, "a\udcffb"])
def test_names_that_are_long_or_odd(layout: JobLayout, name: str) -> None:
    slide = SlideInfo.of(Path(f"/slides/{name}.svs"), name)
    SlideStateFile.load_or_new(layout, slide).begin("coords")
    states = SlideStateFile.load_or_new(layout, slide)
    assert content(states)["slide"]["name"] == name
    assert content(states)["tasks"]["coords"]["status"] == "running"
    assert state_path(layout, slide) == states.path


def test_a_job_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        SlideStateFile.load_or_new(JobLayout(tmp_path / "file", "grid"), SLIDE)


def test_changes_of_a_block_are_written_together(layout: JobLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    states = SlideStateFile.load_or_new(layout, SLIDE)
    writes: list[Path] = []
    write = states_module.write_json
    monkeypatch.setattr(states_module, "write_json", lambda path, value: writes.append(path) or write(path, value))
    with states.together():
        states.set_summary({"n": 1})
        states.set_meta(dimensions=(3, 2), mpp=0.5, mag=20, level_count=1)
        states.finish("coords", "completed", timings={"total": 1.5})
        assert content(states)["summary"] == {}
    assert writes == [states.path]
    found = content(states)
    assert found["summary"] == {"n": 1}
    assert found["meta"]["dimensions"] == [3, 2]
    assert found["tasks"]["coords"]["timings"] == {"total": 1.5}
    with pytest.raises(ZeroDivisionError), states.together():
        states.set_summary({"n": 2})
        raise ZeroDivisionError
    states.set_summary({"m": 3})
    assert content(states)["summary"] == {"n": 1, "m": 3}


def test_timings_stay_where_a_later_run_had_nothing_to_do(layout: JobLayout) -> None:
    states = SlideStateFile.load_or_new(layout, SLIDE)
    assert states.status("coords") == "not_started"
    states.begin("coords")
    states.finish("coords", "completed", timings={"total": 2.0, "open": 0.5})
    states.finish("coords", "skipped", reason="exists")
    assert content(states)["tasks"]["coords"]["timings"] == {"total": 2.0, "open": 0.5}
    assert states.status("coords") == "skipped"
