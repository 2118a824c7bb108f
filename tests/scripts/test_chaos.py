"""The short form of `make chaos`, and that it would notice."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_kills_at_random_moments_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "chaos.py"), "--kills", "5", "--seed", "20"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("5 kills (")


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", ROOT / "scripts" / "chaos.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checked(chaos: ModuleType, tmp_path: Path, run_batch: Callable[..., Any], drawn_slides: Callable[..., Path]) -> Any:
    """What looks at a finished job directory, as the script does, without the kills."""
    slides = drawn_slides(tmp_path / "wsis", "a.svs")
    job = tmp_path / "job"
    assert run_batch("--wsi_dir", slides, "--job_dir", job, *chaos.OPTIONS, "--gpus", "-1").code == 0
    looking = object.__new__(chaos.Chaos)
    looking.folder = tmp_path
    looking.finished = 0
    looking.expected = {str(path.relative_to(job)): chaos.content(path) for path in chaos.outputs_of(job)}
    return looking


def _change_feature(job: Path) -> None:
    (path,) = job.glob("*/features_*/a.h5")
    with h5py.File(path, "r+") as file:
        file["features"][0, 0] += 1


def _touch(job: Path) -> None:
    (path,) = job.glob("*/patches/a_patches.h5")
    path.write_bytes(path.read_bytes())


def _leave_lock(job: Path) -> None:
    (job / "contours_geojson" / "a.geojson.lock").write_text("{}")


def _leave_running(job: Path) -> None:
    (path,) = (job / "wsi_states").glob("a__*.json")
    state = json.loads(path.read_text())
    state["tasks"]["coords"]["status"] = "running"
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_change_feature, "made again|outputs differ"),
        (_touch, "made again"),
        (lambda job: next(job.glob("contours_geojson/*")).unlink(), "made again"),
        (_leave_lock, "left behind"),
        (_leave_running, "running"),
    ],
)
def test_it_would_notice(
    checked: Any, chaos: ModuleType, tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    job = tmp_path / "job"
    known = checked._nothing_redone(job, {})
    checked._check_complete(job, known)
    harm(job)
    with pytest.raises(chaos.ChaosError, match=says):
        checked._check_complete(job, checked._nothing_redone(job, known))


def test_a_changed_feature_alone_is_noticed(checked: Any, chaos: ModuleType, tmp_path: Path) -> None:
    _change_feature(tmp_path / "job")
    with pytest.raises(chaos.ChaosError, match="outputs differ from the undisturbed run's"):
        checked._nothing_redone(tmp_path / "job", {})
