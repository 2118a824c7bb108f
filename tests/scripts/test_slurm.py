"""`scripts/slurm_array.sh` under a real SLURM: its controller, its daemon and its authentication on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
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
AuthInfo=socket={folder}/munge.socket
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
NodeName={host} CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster of one node; its environment."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a SLURM of our own needs root and {', '.join(missing) or 'nothing else'} (Debian: slurm-wlm)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    options = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
    subprocess.run(
        ["munged", "--force", *(f"--{option}={folder}/munge.{end}" for option, end in options.items())], check=True
    )
    configuration = folder / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, host=socket.gethostname().split(".")[0]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRIDENT_", "SLURM_"))}
    environment["SLURM_CONF"] = str(configuration)
    subprocess.run(["slurmctld", "-f", str(configuration)], env=environment, check=True)
    subprocess.run(["slurmd", "-f", str(configuration)], env=environment, check=True)
    yield environment
    for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
        pid = (folder / name).read_text().strip()
        subprocess.run(["kill", pid], check=False)


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


def _wait(slurm: dict[str, str], number: str, logs: Path) -> None:
    deadline = time.monotonic() + 600
    while subprocess.run(
        ["squeue", "--noheader", "--job", number], env=slurm, capture_output=True, text=True, check=False
    ).stdout.strip():
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
