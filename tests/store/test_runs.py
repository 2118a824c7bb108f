"""Run manifests."""

from __future__ import annotations

import json
import os
import re
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
