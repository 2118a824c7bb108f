"""`scripts/fleet.sh` on two hosts that share a folder and one luigid, one of which dies."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    *("--task", "all", "--segmenter", "otsu", "--patch-size", "128", "--gpus=-1", "--skip-errors"),
    *("--patch-encoder", "moody"),
)


@pytest.fixture
def fleet(hosts: Any, moody: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Function (*options): starts a fleet over the two hosts."""
    if not (ROOT / ".venv" / "bin" / "luigi").exists():
        pytest.skip("scripts/fleet.sh runs the project's own .venv, which `make setup` makes")
    listed = tmp_path / "hosts.txt"
    listed.write_text("# two hosts\n" + "\n\n".join(hosts.names) + "\n")

    def start(*options: object) -> subprocess.Popen[str]:
        command = [str(ROOT / "scripts" / "fleet.sh"), str(listed), hosts.address, "--", *map(str, options)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIDENT_")}
        for name in ("no_proxy", "NO_PROXY"):
            environment[name] += f",{hosts.address}"
        run = subprocess.Popen(
            command,
            env={**environment, "FLEET_RSH": str(hosts.rsh), "LOG_DIR": str(tmp_path / "logs"), "LUIGID_PORT": "18082"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        runs.append(run)
        return run

    runs: list[subprocess.Popen[str]] = []
    yield start
    for run in runs:
        run.terminate()  # it ends its luigid
        run.communicate()


def _attempts(job: Path) -> Counter[tuple[str, str]]:
    """How often each stage of each slide was completed."""
    states = [json.loads(path.read_text()) for path in (job / "wsi_states").glob("[!.]*.json")]
    return Counter(
        (state["slide"]["name"], key)
        for state in states
        for key, task in state["tasks"].items()
        for attempt in task["attempts"]
        if attempt["result"] == "completed"
    )


def _hosts_of(job: Path) -> set[str]:
    """Hosts that made some patch features."""
    import h5py

    found = set()
    for path in job.glob("*/features_*/*.h5"):
        with h5py.File(path) as file:
            found.add(str(json.loads(file.attrs["trident_recipe"])["facts"]["host"]))
    return found


def test_two_hosts_share_a_cohort_and_do_every_stage_once(
    fleet: Callable[..., subprocess.Popen[str]],
    hosts: Any,
    moody: Any,
    tmp_path: Path,
    drawn_slides: Callable[..., Path],
    wait_until: Callable[..., None],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    slides = drawn_slides(tmp_path / "wsis", *(f"s{number}.svs" for number in range(8)))
    job = tmp_path / "job"
    moody.order("wait")
    run = fleet("--wsi-dir", slides, "--job-dir", job, *OPTIONS)
    wait_until(lambda: {host for host, _ in moody.stuck()} == set(hosts.names), run)
    moody.forget()
    out, _ = run.communicate(timeout=600)
    logs = "\n".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert run.returncode == 0, out + logs
    assert set(_attempts(job).values()) == {1}
    assert len(_attempts(job)) == 8 * 3
    assert _hosts_of(job) == set(hosts.names)
    assert left_behind(job) == []


def test_a_host_that_dies_gives_its_slides_back(
    fleet: Callable[..., subprocess.Popen[str]],
    hosts: Any,
    moody: Any,
    tmp_path: Path,
    drawn_slides: Callable[..., Path],
    wait_until: Callable[..., None],
) -> None:
    slides = drawn_slides(tmp_path / "wsis", *(f"s{number}.svs" for number in range(6)))
    job = tmp_path / "job"
    moody.order("wait")
    run = fleet("--wsi-dir", slides, "--job-dir", job, *OPTIONS)
    dying = hosts.names[0]
    wait_until(lambda: dying in {host for host, _ in moody.stuck()}, run)
    hosts.kill(dying)
    moody.forget()
    out, _ = run.communicate(timeout=600)
    logs = "\n".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert f"{dying}: exit code 137" in out
    assert f"{hosts.names[1]}: exit code 0" in out, logs
    assert len(_attempts(job)) == 6 * 3
    assert set(_attempts(job).values()) == {1}
    assert list(job.rglob("*.lock")) == []


@pytest.mark.parametrize("arguments", [(), ("hosts.txt", "127.0.0.1"), ("hosts.txt", "127.0.0.1", "--task", "all")])
def test_wrong_arguments_show_how_it_is_used(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([str(ROOT / "scripts" / "fleet.sh"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "HOSTS_FILE ADDRESS --" in done.stderr


@pytest.fixture
def no_fleet(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Function (**environment): a fleet of one host, which answers and does nothing; from an empty folder."""
    if not (ROOT / ".venv" / "bin" / "luigid").exists():
        pytest.skip("scripts/fleet.sh runs the project's own .venv, which `make setup` makes")
    rsh = tmp_path / "rsh"
    rsh.write_text("#!/bin/sh\nexec cat\n")
    rsh.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    (here / "hosts.txt").write_text("one\n")

    def go(**environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("LOG_DIR", "LUIGID_PORT")}
        return subprocess.run(
            [str(ROOT / "scripts" / "fleet.sh"), "hosts.txt", "127.0.0.1", "--", "--task", "all"],
            env={**kept, "FLEET_RSH": str(rsh), **environment},
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )

    return go


@pytest.mark.parametrize("logs", [None, ".", "some/logs"])
def test_logs_go_where_they_are_wanted_and_not_into_the_project(
    logs: str | None, no_fleet: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    more = {} if logs is None else {"LOG_DIR": logs}
    for _ in range(20):  # somebody may have the port
        done = no_fleet(LUIGID_PORT=str(random.randrange(20_000, 32_000)), **more)
        if "already" not in done.stderr and "does not start" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "here" / (logs or ".")
    assert "RunCohort" in (folder / "fleet-one.log").read_text()
    assert (folder / "fleet-luigid.log").is_file()


def test_a_port_that_somebody_has_is_not_taken_for_our_luigid(
    no_fleet: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = no_fleet(LUIGID_PORT=str(port))
    assert done.returncode == 2
    assert f"error: something answers at http://127.0.0.1:{port} already" in done.stderr
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["hosts.txt"]


@pytest.mark.parametrize(
    ("luigid", "seconds", "says"),
    [
        (
            "exec sleep 3600",
            1,
            "luigid does not answer at http://127.0.0.1:{port}; is 127.0.0.1 an address of this host?",
        ),
        ("exit 0", 3600, "luigid does not start at http://127.0.0.1:{port}"),
    ],
    ids=["never listens", "ends"],
)
def test_a_luigid_that_never_answers_is_waited_for_so_long(
    luigid: str,
    seconds: int,
    says: str,
    tmp_path: Path,
    is_gone: Callable[[int], bool],
    wait_until: Callable[..., None],
) -> None:
    home = tmp_path / "project"
    (home / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "fleet.sh", home / "scripts")
    program = home / ".venv" / "bin" / "luigid"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\n{luigid}\n")
    program.chmod(0o755)
    (tmp_path / "hosts.txt").write_text("one\n")
    with socket.socket() as ours:  # bound and deaf: nobody else can take the port
        ours.bind(("127.0.0.1", 0))
        port = ours.getsockname()[1]
        done = subprocess.run(
            [str(home / "scripts" / "fleet.sh"), "hosts.txt", "127.0.0.1", "--", "--task", "all"],
            env={**os.environ, "LUIGID_PORT": str(port), "LUIGID_START_S": str(seconds), "FLEET_RSH": "false"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {says.format(port=port)}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert f"see {tmp_path}/fleet-luigid.log" in done.stderr
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: is_gone(pid))  # it is told to end, and not waited for


def test_a_luigid_that_does_not_start_is_told(
    no_fleet: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "broken.cfg").write_text("no section\n")
    done = no_fleet(LUIGI_CONFIG_PATH=str(tmp_path / "broken.cfg"), LUIGID_PORT="31999")
    assert done.returncode in (1, 2), done.stdout  # 2: somebody has the port
    assert f"see {tmp_path}/here/fleet-luigid.log" in done.stderr or "already" in done.stderr
