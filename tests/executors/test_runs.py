"""Whole runs as real processes: interrupted, several at once, on disks that fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trident.exit_codes import FINISHED_WITH_FAILURES, INTERRUPTED, OK, STOPPED, USAGE

OPTIONS = (
    *("--task", "all", "--segmenter", "otsu", "--patch_size", 128, "--gpus", -1, -1, "--skip_errors"),
    *("--patch_encoder", "moody"),
)

_PATIENCE = """
import sys
if sys.argv[0].endswith("run_batch_of_slides.py"):
    from luigi_tasks import workforce
    workforce._NOTE_S = 600.0
"""


@pytest.fixture
def start(
    start_program: Callable[..., subprocess.Popen[str]],
    moody: Any,
    tmp_path: Path,
    runtime_folder: Path,
    drawn_slides: Callable[..., Path],
) -> Callable[..., subprocess.Popen[str]]:
    """Function (*arguments, job=…): starts a run over four slides with two executors."""
    slides = drawn_slides(tmp_path / "wsis", "a.svs", "b.svs", "c.svs", "d.svs")
    # A busy machine may take longer than the seconds that a run gives its tasks at the end to note what became of them.
    patience = tmp_path / "patience"
    patience.mkdir()
    (patience / "sitecustomize.py").write_text(_PATIENCE)

    def go(*arguments: object, job: Path = tmp_path / "job") -> subprocess.Popen[str]:
        return start_program(
            "batch",
            *("--wsi_dir", slides, "--job_dir", job, *OPTIONS, *arguments),
            env={
                "PYTHONPATH": f"{patience}{os.pathsep}{os.environ['PYTHONPATH']}",
                "XDG_RUNTIME_DIR": str(runtime_folder),
            },
        )

    return go


def _states(job: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((job / "wsi_states").glob("[!.]*.json"))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_a_run_cleanly_and_the_next_one_goes_on(
    number: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    moody: Any,
    tmp_path: Path,
    runtime_folder: Path,
    wait_until: Callable[..., None],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    moody.order("hang")  # for ever: a run that waits for its executors does not end
    run = start()
    wait_until(moody.stuck, run)
    run.send_signal(number)
    stopped = finish_program(run)
    assert stopped.code == INTERRUPTED
    assert "Traceback" not in stopped.err
    assert stopped.err.splitlines()[-1] == "interrupted"
    job = tmp_path / "job"
    assert left_behind(job) == []
    messages = [
        task["message"] for state in _states(job) for task in state["tasks"].values() if task["status"] == "error"
    ]
    assert messages and set(messages) == {"interrupted"}
    assert "running" not in {task["status"] for state in _states(job) for task in state["tasks"].values()}
    (manifest,) = [json.loads(path.read_text()) for path in (job / "runs").iterdir()]
    assert (manifest["status"], manifest["error"]) == ("error", "interrupted")
    assert list((runtime_folder / "trident").glob("run-*")) == []
    moody.forget()
    assert finish_program(start()).code == OK
    assert {task["status"] for state in _states(job) for task in state["tasks"].values()} == {"completed"}


def test_a_run_that_made_up_for_a_dead_executor_leaves_nothing_of_it(
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    moody: Any,
    tmp_path: Path,
    left_behind: Callable[[Path], list[Path]],
) -> None:
    moody.order("die-in-a-file")
    ended = finish_program(start())
    assert ended.code == OK, ended.err
    assert "patch_features: executor cpu" in ended.err
    assert "begun again" in ended.err
    job = tmp_path / "job"
    assert left_behind(job) == []
    assert {task["status"] for state in _states(job) for task in state["tasks"].values()} == {"completed"}


def test_executors_that_cannot_answer_are_killed_and_what_they_did_is_put_down(
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    moody: Any,
    tmp_path: Path,
    wait_until: Callable[..., None],
    is_gone: Callable[[int], bool],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    moody.order("hang")
    run = start()
    wait_until(lambda: len(moody.stuck()) == 2, run)
    executors = [pid for _, pid in moody.stuck()]
    for pid in executors:
        os.kill(pid, signal.SIGSTOP)
    job = tmp_path / "job"
    assert left_behind(job) != []
    run.send_signal(signal.SIGTERM)
    stopped = finish_program(run)
    assert stopped.code == INTERRUPTED
    assert "Traceback" not in stopped.err
    assert stopped.err.count("does not end by itself: it is killed") == 2
    assert all(is_gone(pid) for pid in executors)
    assert left_behind(job) == []
    ended = [state["tasks"]["patch_features:moody"] for state in _states(job)]
    interrupted = [task for task in ended if task["status"] != "not_started"]
    assert len(interrupted) == 2
    for task in interrupted:
        assert (task["status"], task["message"]) == ("error", "interrupted")
        assert [attempt["result"] for attempt in task["attempts"]] == ["error"]
    moody.forget()
    assert finish_program(start()).code == OK


def test_runs_at_once_on_one_job_directory_do_every_stage_once(
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    tmp_path: Path,
    left_behind: Callable[[Path], list[Path]],
) -> None:
    ended = [finish_program(run) for run in [start() for _ in range(3)]]
    assert [run.code for run in ended] == [OK] * 3, "\n".join(run.err for run in ended)
    states = _states(tmp_path / "job")
    done = Counter(
        (state["slide"]["name"], key)
        for state in states
        for key, task in state["tasks"].items()
        for attempt in task["attempts"]
        if attempt["result"] == "completed"
    )
    assert set(done.values()) == {1}
    assert len(done) == 4 * 3
    assert left_behind(tmp_path / "job") == []


def test_a_stage_beyond_its_time_is_reported_and_costs_no_other_slide(
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    moody: Any,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    began = time.monotonic()
    assert finish_program(start(job=tmp_path / "undisturbed")).code == OK
    limit_s = 5 + round(2 * (time.monotonic() - began))  # more than any one stage takes on this machine
    moody.order("hang")
    run = start("--task_timeout", limit_s)
    wait_until(moody.stuck, run)
    moody.forget()
    ended = finish_program(run)
    assert ended.code == FINISHED_WITH_FAILURES
    assert f"took longer than --task_timeout {limit_s} s and was ended" in ended.err
    failed = [
        task for state in _states(tmp_path / "job") for task in state["tasks"].values() if task["status"] == "error"
    ]
    assert len(failed) == len(moody.stuck())  # one slide, or two where both executors hung before they were forgiven
    assert all(f"--task_timeout {limit_s} s" in task["message"] for task in failed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Function (mount options, folder under `tmp_path`): a disk of its own."""
    mounted: list[Path] = []

    def mount(options: str, where: str = "disk") -> Path:
        folder = tmp_path / where
        folder.mkdir(parents=True)
        if shutil.which("mount") is None or os.geteuid() != 0:
            pytest.skip("mounting a small disk needs root")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"this machine does not let us mount a small disk ({done.stderr.strip()})")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("full", "size", "codes"),
    [
        ("job/20x_128px_0px_overlap/features_moody", "4k", {FINISHED_WITH_FAILURES}),
        ("job", "192k", {FINISHED_WITH_FAILURES, USAGE}),  # the run's own record in `runs/` may not fit either
    ],
    ids=["of the features", "of the job directory"],
)
def test_a_full_disk_is_told_and_leaves_no_half_file(
    full: str,
    size: str,
    codes: set[int],
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    small_disk: Callable[..., Path],
    tmp_path: Path,
    left_behind: Callable[[Path], list[Path]],
) -> None:
    disk = small_disk(f"size={size}", full)
    job = tmp_path / "job"
    ended = finish_program(start("--mag", 20))
    assert ended.code in codes, ended.err
    assert "No space left on device; free some space on this disk and run again" in ended.err
    assert "Traceback" not in ended.err
    assert [path for path in left_behind(job) if ".tmp" in path.name] == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = finish_program(start("--mag", 20))
    assert again.code == OK, again.err


def test_a_read_only_job_directory_is_told_in_one_line(
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    small_disk: Callable[..., Path],
) -> None:
    disk = small_disk("ro,size=1m")
    ended = finish_program(start(job=disk / "job"))
    assert ended.code == USAGE, ended.err
    assert "Read-only file system" in ended.err
    assert ended.err.count("\n") == 1


def test_a_job_directory_that_vanishes_ends_the_run(
    start: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    moody: Any,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    moody.order("wait")
    run = start()
    wait_until(moody.stuck, run)
    (tmp_path / "job").rename(tmp_path / "gone")
    (tmp_path / "job").write_text("a file stands here now")
    moody.forget()
    ended = finish_program(run)
    assert ended.code in (FINISHED_WITH_FAILURES, STOPPED, 2, 1)
    assert ended.err.strip()
