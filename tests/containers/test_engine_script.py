"""`scripts/docker_engine.sh` on machines where no container engine can run: one line, and an exit code of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CANNOT = 75
"""What `.ci/run` takes as: not here, and for a reason that was told."""
_TOOLS = ("bash", "cat", "dirname", "env", "grep", "id", "mkdir", "rm", "sed", "seq", "setsid", "sleep", "tail", "tr")


@pytest.mark.parametrize("step", [("start",), ("test", "small"), ("image", "cpu")], ids=lambda step: step[0])
@pytest.mark.parametrize("broken", [(), ("containerd", "debootstrap", "dockerd")], ids=["absent", "broken"])
def test_a_machine_that_cannot_says_so_in_one_line(
    step: tuple[str, ...], broken: tuple[str, ...], tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in _TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (programs / name).symlink_to(found)
    for name in broken:
        (programs / name).write_text(f"#!/bin/sh\necho 'no rights for {name}' >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "docker_engine.sh"), *step],
        env={"PATH": str(programs), "ENGINE_DIR": str(tmp_path / "engine")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (CANNOT, ""), done.stderr
    reason = done.stderr.splitlines()[-1]
    assert reason.startswith("docker_engine: containers cannot be tested on this machine: ")
    if os.geteuid():
        assert reason.endswith("an engine needs root") or step[0] == "test"
    elif broken:
        assert reason.endswith("containerd does not start: no rights for containerd")
    else:
        assert "there is no dockerd" in reason or "docker.io and debootstrap cannot be installed" in reason
