"""`scripts/slurm_array.sh` under a real SLURM: its controller, its daemon and its authentication on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={munge}/socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(
    tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None], is_gone: Callable[[int], bool]
) -> Iterator[dict[str, str]]:
    """A cluster of one node; its environment."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a SLURM of our own needs root and {', '.join(missing) or 'nothing else'} (Debian: slurm-wlm)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    with tempfile.TemporaryDirectory(prefix="trident-munge-", dir="/tmp") as munge:
        pid_files: list[Path] = []
        try:
            yield _started(folder, Path(munge), pid_files)
        finally:
            pids = [int(path.read_text()) for path in reversed(pid_files) if path.exists()]
            for pid in pids:
                subprocess.run(["kill", str(pid)], check=False)
                wait_until(lambda ending=pid: is_gone(ending))


def _started(folder: Path, munge: Path, pid_files: list[Path]) -> dict[str, str]:
    """The environment of a cluster whose daemons run; where each of them notes its number is added to `pid_files`."""
    munge.chmod(0o755)  # whoever asks for credentials must reach the socket
    key = munge / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    options = ("socket", "pid-file", "log-file", "seed-file", "key-file")
    files = {option: munge / option.removesuffix("-file") for option in options}
    configuration = folder / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, munge=munge, host=socket.gethostname().split(".")[0]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRIDENT_", "SLURM_"))}
    environment["SLURM_CONF"] = str(configuration)
    for pid_file, command in (
        (files["pid-file"], ["munged", "--force", *(f"--{option}={path}" for option, path in files.items())]),
        (folder / "slurmctld.pid", ["slurmctld", "-f", str(configuration)]),
        (folder / "slurmd.pid", ["slurmd", "-f", str(configuration)]),
    ):
        pid_files.append(pid_file)
        subprocess.run(command, env=environment, check=True)
    return environment


@pytest.fixture
def submit(slurm: dict[str, str], moody: Any, tmp_path: Path) -> Callable[..., str]:
    """Function (array, *options): submits the array; gives its job number."""
    if not (ROOT / ".venv" / "bin" / "luigi").exists():
        pytest.skip("scripts/slurm_array.sh runs the project's own .venv, which `make setup` makes")

    def go(array: str, *options: object) -> str:
        done = subprocess.run(
            ["sbatch", "--parsable", f"--array={array}", "--cpus-per-task=1", str(ROOT / "scripts/slurm_array.sh")]
            + [str(option) for option in options],
            env={**slurm, "PROJECT_HOME": str(ROOT), "PYTHONPATH": os.environ["PYTHONPATH"]},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    return go


def _has_ended(slurm: dict[str, str], number: str) -> bool:
    asked = subprocess.run(
        ["squeue", "--noheader", "--job", number], env=slurm, capture_output=True, text=True, check=False
    )
    if asked.returncode:  # a controller that is slow to answer is asked again
        return "Invalid job id" in asked.stderr
    return not asked.stdout.strip()


def _wait(slurm: dict[str, str], number: str, logs: Path) -> None:
    deadline = time.monotonic() + 600
    while not _has_ended(slurm, number):
        if time.monotonic() > deadline:
            pytest.fail(
                "the array does not end:\n" + "\n".join(path.read_text() for path in logs.glob("trident-*.log"))
            )
        time.sleep(0.3)


def test_array_tasks_share_a_cohort_and_a_stopped_one_gives_its_slides_back(
    slurm: dict[str, str],
    submit: Callable[..., str],
    moody: Any,
    tmp_path: Path,
    drawn_slides: Callable[..., Path],
    wait_until: Callable[..., None],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    slides = drawn_slides(tmp_path / "wsis", *(f"s{number}.svs" for number in range(6)))
    job = tmp_path / "job"
    options = (
        *("--task", "all", "--wsi-dir", slides, "--job-dir", job, "--skip-errors"),
        *("--segmenter", "otsu", "--patch-size", 128, "--patch-encoder", "moody"),
    )
    moody.order("wait")
    number = submit("0-1", *options)
    wait_until(lambda: len(moody.stuck()) == 2)
    subprocess.run(["scancel", f"{number}_0"], env=slurm, check=True)
    _wait(slurm, f"{number}_0", tmp_path)
    moody.forget()
    _wait(slurm, number, tmp_path)
    logs = {path.name: path.read_text() for path in tmp_path.glob("trident-*.log")}
    states = [json.loads(path.read_text()) for path in (job / "wsi_states").glob("[!.]*.json")]
    completed = Counter(
        (state["slide"]["name"], key)
        for state in states
        for key, task in state["tasks"].items()
        for attempt in task["attempts"]
        if attempt["result"] == "completed"
    )
    assert len(completed) == 6 * 3, logs
    assert set(completed.values()) == {1}
    assert left_behind(job) == []


def test_started_by_hand_it_says_how_to_submit_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PROJECT_"))}
    done = subprocess.run(
        ["bash", ROOT / "scripts/slurm_array.sh", "--task", "all"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "submit it with: sbatch " in done.stderr
