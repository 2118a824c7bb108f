"""Run manifests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trident.store.layout import JobLayout
from trident.store.runs import RunManifest

KEYS = [
    "run_id",
    "tool",
    "started_at",
    "finished_at",
    "status",
    "error",
    "trident_version",
    "host",
    "pid",
    "job_dir",
    "args",
]


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    layout = JobLayout(tmp_path, "grid")
    run = RunManifest.start(layout, "batch", {"mag": 20, "hf_token": "x", "wsi_dir": Path("/slides")})
    assert re.fullmatch("[0-9a-f]{12}", run.run_id)
    path = tmp_path / "runs" / f"{run.run_id}.json"
    content = json.loads(path.read_text())
    assert list(content) == KEYS
    assert content["status"] == "running"
    assert content["finished_at"] is None
    assert content["pid"] == os.getpid()
    assert content["args"] == {"mag": 20, "wsi_dir": "/slides"}
    run.finish("error", "2 slides failed at https://me:pw@host")
    content = json.loads(path.read_text())
    assert content["status"] == "error"
    assert content["error"] == "2 slides failed at https://[removed]@host"
    assert content["finished_at"] >= content["started_at"]


def test_runs_do_not_share_a_file(tmp_path: Path) -> None:
    layout = JobLayout(tmp_path, "grid")
    assert len({RunManifest.start(layout, "batch", {}).path for _ in range(20)}) == 20


def test_the_environment_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "very-private-value")
    run = RunManifest.start(JobLayout(tmp_path, "grid"), "batch", {"mag": 20})
    assert "very-private-value" not in run.path.read_text()


@pytest.mark.parametrize("status", ["running", "done", ""])
def test_another_status_is_refused(tmp_path: Path, status: str) -> None:
    run = RunManifest.start(JobLayout(tmp_path, "grid"), "batch", {})
    with pytest.raises(ValueError, match="a run ends"):
        run.finish(status)


def _left_running(folder: Path, **fields: object) -> Path:
    """The manifest of a run that could not close it."""
    manifest = RunManifest.start(JobLayout(folder, "grid"), "batch", {}).path
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **fields}))
    return manifest


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"pid": 2**22 + 1}, "error"),  # beyond the highest number that Linux gives a process
        ({}, "running"),  # this process
        ({"pid": 2**22 + 1, "host": "another-host"}, "running"),  # cannot be known from here
        ({"pid": 2**22 + 1, "status": "completed"}, "completed"),
        ({"pid": "4194305"}, "running"),
        ({"pid": True}, "running"),
        ({"pid": -1}, "running"),
        ({"pid": None}, "running"),
        ({"host": 4, "pid": 2**22 + 1}, "running"),
    ],
)
def test_the_next_run_closes_the_manifest_of_one_that_was_killed(
    fields: dict[str, object], status: str, tmp_path: Path
) -> None:
    path = _left_running(tmp_path, **fields)
    before = json.loads(path.read_text())
    RunManifest.start(JobLayout(tmp_path, "grid"), "batch", {})
    after = json.loads(path.read_text())
    assert after["status"] == status
    if status == "error":
        assert after == {**before, "status": "error", "error": "ended abruptly: its process is gone"}
    else:
        assert after == before


def test_a_real_process_that_was_killed_ended_abruptly(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from trident.store.layout import JobLayout;"
        "from trident.store.runs import RunManifest;"
        "RunManifest.start(JobLayout(Path(sys.argv[1]), 'grid'), 'batch', {}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    (path,) = (tmp_path / "runs").glob("*.json")
    assert json.loads(path.read_text())["status"] == "running"
    RunManifest.start(JobLayout(tmp_path, "grid"), "batch", {})
    assert json.loads(path.read_text())["error"] == "ended abruptly: its process is gone"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"status": "running"}', b"[" * 100_000])
def test_a_damaged_manifest_is_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "0123456789ab.json"
    path.write_bytes(content)
    RunManifest.start(JobLayout(tmp_path, "grid"), "batch", {})
    assert path.read_bytes() == content
