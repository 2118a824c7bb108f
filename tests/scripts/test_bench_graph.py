"""The measurement of the task graph, on jobs too small to say anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_graph.py"
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler on this machine"
)


def _bench(tmp_path: Path, *arguments: str) -> dict[str, list[dict[str, float]]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRIDENT_", "LUIGI_"))}
    report = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), *arguments, "--work-dir", str(tmp_path), "--json", str(report)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| slides |")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    figures: dict[str, list[dict[str, float]]] = json.loads(report.read_text())
    return figures


@needs_compiler
def test_finished_slides_are_timed_also_on_slow_files(tmp_path: Path) -> None:
    (row,) = _bench(tmp_path, "--slides", "3", "--task-slides", "--stat-delay-ms", "5")["recognition"]
    assert row["slides"] == 3
    assert row["slow_look_s"] > 10 * 0.005  # more than ten questions waited
    assert min(row["first_look_s"], row["later_look_s"], row["later_peak_mib"]) > 0


def test_idle_tasks_are_timed(tmp_path: Path) -> None:
    (row,) = _bench(tmp_path, "--slides", "--task-slides", "2", "--schedulers", "luigid")["tasks"]
    assert (row["slides"], row["scheduler"], row["executor"]) == (2, "luigid", "process")
    assert row["ms_per_task"] == pytest.approx(1000 * row["run_s"] / 8, abs=1)
