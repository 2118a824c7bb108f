"""The executors of a run: real processes that work, die, hang and are told to stop."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trident.errors import (
    ExecutorError,
    NotStartedError,
    PutDownError,
    TaskTimeoutError,
    UnforeseenError,
    UnreadableSlideError,
)
from trident.executors.executor import Launch, process_launcher
from trident.executors.messages import StageRequest
from trident.executors.pool import Lane, Pool, lanes_for
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION
from trident.stages.base import StageResult

LAUNCH = process_launcher({})


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ((-1,), [Lane("cpu0", -1, 1)]),
        ((-1, -1), [Lane("cpu0", -1, 1), Lane("cpu1", -1, 1)]),
        ((0,), [Lane("gpu0", 0, 2, takes_light_stages=False), Lane("cpu", -1, 2, takes_device_stages=False)]),
        (
            (3, 1),
            [
                Lane("gpu3", 3, 2, takes_light_stages=False),
                Lane("gpu1", 1, 2, takes_light_stages=False),
                Lane("cpu", -1, 2, takes_device_stages=False),
            ],
        ),
        ((0, -1), [Lane("gpu0", 0, 2, takes_light_stages=False), Lane("cpu1", -1, 1)]),
    ],
)
def test_a_lane_for_each_device_and_one_beside_gpus(devices: tuple[int, ...], expected: list[Lane]) -> None:
    assert lanes_for(devices, slides_per_gpu=2) == expected


class Work:
    """A pool, and what it is asked for."""

    def __init__(self, job: str, pool: Pool) -> None:
        self.job = job
        self.pool = pool
        self.progress: list[tuple[int, int]] = []

    def do(self, kind: str, slide: str = "a") -> StageResult:
        return self.pool.run(
            StageRequest(self.job, kind, slide),
            lambda done, total: self.progress.append((done, total)),
            uses_device=kind == PATCH_FEATURES,
        )

    def coords(self, *slides: str) -> None:
        for slide in slides or ("a",):
            self.do(SEGMENTATION, slide)
            self.do(COORDS, slide)

    def pids(self) -> list[int]:
        return [place.executor.pid for place in self.pool._places if place.executor is not None]

    @property
    def job_dir(self) -> Path:
        return Path(self.job).parents[2]

    def state(self, slide: str) -> dict[str, Any]:
        (path,) = (self.job_dir / "wsi_states").glob(f"{slide}__*.json")
        tasks: dict[str, Any] = json.loads(path.read_text())["tasks"]
        return tasks


@pytest.fixture
def work(
    job_path: Callable[..., str], runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Work]]:
    """Function (lanes, …): a pool over a new job."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder))
    pools: list[Pool] = []

    def make(*lanes: Lane, launch: Launch = LAUNCH, task_timeout_s: float | None = None) -> Work:
        pools.append(Pool(lanes or lanes_for((-1,), 2), launch, task_timeout_s=task_timeout_s))
        return Work(job_path(), pools[-1])

    yield make
    for pool in pools:
        pool.close()


def test_one_process_does_all_stages_and_others_see_what_it_did(
    work: Callable[..., Work], left_behind: Callable[[Path], list[Path]]
) -> None:
    w = work()
    assert w.pids() == []  # none before there is work
    w.coords()
    result = w.do(PATCH_FEATURES)
    assert result.outputs["features"].is_file()
    assert (result.meta["dimensions"], result.reader_type, result.skipped) == ([1024, 768], "cucim", False)
    assert w.progress[-1][0] == w.progress[-1][1] > 0
    assert len(w.pids()) == 1
    assert w.do(PATCH_FEATURES).skipped
    assert {task["status"] for task in w.state("a").values()} == {"completed"}
    assert left_behind(w.job_dir) == []


def test_sockets_are_this_users_alone(work: Callable[..., Work], runtime_folder: Path) -> None:
    w = work()
    w.do(SEGMENTATION)
    (folder,) = (runtime_folder / "trident").glob("run-*")
    (socket,) = [path for path in folder.iterdir() if path.is_socket()]
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    w.pool.close()
    assert not folder.exists()


def test_an_expected_error_comes_back_as_itself(work: Callable[..., Work], tmp_path: Path) -> None:
    w = work()
    (tmp_path / "wsis" / "a.svs").write_bytes(b"")
    with pytest.raises(UnreadableSlideError, match=r"a\.svs: .*empty"):
        w.do(SEGMENTATION)
    w.do(SEGMENTATION, "b")


def test_an_unforeseen_error_comes_back_in_one_line_with_its_traceback(work: Callable[..., Work], moody: Any) -> None:
    w = work()
    w.coords()
    moody.order("raise")
    with pytest.raises(UnforeseenError, match=r"^ValueError: the network is moody$") as caught:
        w.do(PATCH_FEATURES)
    assert "in forward" in caught.value.trace
    moody.forget()
    assert not w.do(PATCH_FEATURES).skipped


def test_a_killed_executor_costs_one_retry_and_nothing_else(
    work: Callable[..., Work], moody: Any, left_behind: Callable[[Path], list[Path]]
) -> None:
    w = work()
    w.coords()
    (before,) = w.pids()
    moody.order("die-once")
    assert not w.do(PATCH_FEATURES).skipped
    (after,) = w.pids()
    assert after != before
    assert [attempt["result"] for attempt in w.state("a")["patch_features:moody"]["attempts"]] == ["error", "completed"]
    assert [path for path in left_behind(w.job_dir) if path.suffix == ".lock"] == []


def test_a_slide_that_always_kills_its_process_fails_and_others_go_on(work: Callable[..., Work], moody: Any) -> None:
    w = work(Lane("cpu0", -1, 2))
    w.coords("a", "b")
    moody.order("die")
    with pytest.raises(ExecutorError, match=r"^a: the process died 3 times .*signal 9 \(SIGKILL\)"):
        w.do(PATCH_FEATURES)
    moody.forget()
    assert not w.do(PATCH_FEATURES, "b").skipped


def test_a_stage_that_hangs_is_ended_after_its_time(work: Callable[..., Work], moody: Any) -> None:
    w = work(task_timeout_s=600.0)
    w.coords("a", "b")
    w.pool._timeout_s = 3.0
    moody.order("hang")
    with pytest.raises(TaskTimeoutError, match=r"a: patch features took longer than --task_timeout 3 s"):
        w.do(PATCH_FEATURES)
    w.pool._timeout_s = 600.0
    moody.forget()
    assert not w.do(PATCH_FEATURES, "b").skipped


def test_closing_interrupts_what_runs_and_leaves_nothing_behind(
    work: Callable[..., Work],
    moody: Any,
    wait_until: Callable[..., None],
    is_gone: Callable[[int], bool],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    w = work()
    w.coords()
    moody.order("hang")
    ended: list[BaseException] = []

    def do() -> None:
        try:
            w.do(PATCH_FEATURES)
        except PutDownError as error:
            ended.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    wait_until(moody.stuck)
    assert left_behind(w.job_dir) != []
    (pid,) = w.pids()
    w.pool.close()
    thread.join()
    assert len(ended) == 1
    task = w.state("a")["patch_features:moody"]
    assert (task["status"], task["message"]) == ("error", "interrupted")
    assert left_behind(w.job_dir) == []
    assert is_gone(pid)


def test_executors_end_with_their_driver_however_that_ends(
    work: Callable[..., Work],
    moody: Any,
    wait_until: Callable[..., None],
    is_gone: Callable[[int], bool],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    w = work()
    w.coords()
    moody.order("hang")
    script = (
        "import sys; from trident.executors.pool import *; from trident.executors.executor import process_launcher\n"
        f"pool = Pool(lanes_for((-1,), 2), process_launcher({{}}))\n"
        f"pool.run(StageRequest({w.job!r}, {PATCH_FEATURES!r}, 'a'), lambda *_: None, uses_device=True)"
    )
    driver = subprocess.Popen([sys.executable, "-c", script])
    wait_until(moody.stuck, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    ((_, pid),) = moody.stuck()
    wait_until(lambda: is_gone(pid))
    assert left_behind(w.job_dir) == []
    assert w.state("a")["patch_features:moody"]["message"] == "interrupted"


@pytest.mark.parametrize("moment", ["while it starts", "once it listens"])
def test_an_executor_whose_driver_dies_before_it_spoke_to_it_ends(
    moment: str, runtime_folder: Path, wait_until: Callable[..., None], is_gone: Callable[[int], bool]
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from trident.executors.executor import process_launcher\n"
        "print(process_launcher({})(Path(sys.argv[1]), -1).pid, flush=True); time.sleep(3600)"
    )
    socket_path = runtime_folder / "s"
    driver = subprocess.Popen([sys.executable, "-c", script, str(socket_path)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    if moment == "while it starts":
        os.kill(pid, signal.SIGSTOP)
    else:
        wait_until(socket_path.exists, driver)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: is_gone(pid))
    # At once, and not after the minute that an executor waits for a driver that lives.
    assert "the driver of this executor is dead" in socket_path.with_name("s.words").read_text()


def test_a_stopped_run_begins_nothing_more(work: Callable[..., Work]) -> None:
    w = work()
    w.pool.refuse()
    with pytest.raises(NotStartedError):
        w.do(SEGMENTATION)
    assert w.pids() == []


@pytest.mark.parametrize(
    ("code", "starts", "says"),
    [("import sys; sys.exit(3)", 1, "exit code 3"), ("import os; os.kill(os.getpid(), 9)", 3, "signal 9")],
)
def test_an_executor_that_does_not_start_is_an_error_and_a_killed_one_is_tried_again(
    work: Callable[..., Work], code: str, starts: int, says: str
) -> None:
    started = []

    def launch(socket_path: Path, index: int) -> subprocess.Popen[bytes]:
        started.append(socket_path)
        return subprocess.Popen([sys.executable, "-c", code])

    w = work(launch=launch)
    with pytest.raises(ExecutorError, match=rf"executor cpu0 does not start .*{says}"):
        w.do(SEGMENTATION)
    assert len(started) == starts


def test_an_executor_that_was_killed_while_it_started_is_started_again(work: Callable[..., Work]) -> None:
    started: list[Any] = []

    def launch(socket_path: Path, index: int) -> Any:
        started.append(LAUNCH(socket_path, index))
        if len(started) == 1:
            started[0].kill()
        return started[-1]

    assert not work(launch=launch).do(SEGMENTATION).skipped
    assert len(started) == 2


def test_a_pool_that_is_closed_while_an_executor_starts_ends_it(work: Callable[..., Work]) -> None:
    launched = threading.Event()
    started: list[subprocess.Popen[bytes]] = []

    def launch(socket_path: Path, index: int) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]))  # starts for ever
        launched.set()
        return started[-1]

    w = work(launch=launch)
    ended: list[BaseException] = []

    def do() -> None:
        try:
            w.do(SEGMENTATION)
        except NotStartedError as error:
            ended.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    launched.wait()
    w.pool.close()
    thread.join()
    assert len(ended) == 1
    assert started[0].wait(600) is not None
    assert not (w.job_dir / "wsi_states").exists()


@pytest.mark.parametrize("second", ["time.sleep(3600)", "sys.exit(3)"], ids=["is starting", "does not start"])
def test_a_run_that_stops_when_a_stage_is_begun_again_has_it_put_down(
    second: str, work: Callable[..., Work], moody: Any
) -> None:
    stopping = threading.Event()

    def launch(socket_path: Path, index: int) -> Any:
        if not stopping.is_set():
            stopping.set()
            return LAUNCH(socket_path, index)
        w.pool.refuse()
        return subprocess.Popen([sys.executable, "-c", f"import sys, time; {second}"])

    w = work(launch=launch)
    w.coords()
    moody.order("die-once")
    with pytest.raises(PutDownError, match=r"^a: interrupted: executor cpu0 ended by signal 9"):
        w.do(PATCH_FEATURES)
    assert w.state("a")["patch_features:moody"]["status"] == "running"  # for who asked to put right


def test_what_a_dying_process_says_is_shown(
    work: Callable[..., Work], moody: Any, caplog: pytest.LogCaptureFixture
) -> None:
    w = work()
    w.coords()
    moody.order("abort-once")
    assert not w.do(PATCH_FEATURES).skipped
    assert "last words" in caplog.text
    assert "Fatal Python error: Aborted" in caplog.text  # the interpreter's own traceback, with the line in the network
    assert "in forward" in caplog.text


def test_device_stages_and_light_stages_go_to_their_own_lanes(work: Callable[..., Work]) -> None:
    heavy = Lane("heavy", -1, 1, takes_light_stages=False)
    light = Lane("light", -1, 2, takes_device_stages=False)
    w = work(heavy, light)
    w.coords()
    assert len(w.pids()) == 1
    w.do(PATCH_FEATURES)
    assert len(w.pids()) == 2
    assert w.pool.slots == 3
