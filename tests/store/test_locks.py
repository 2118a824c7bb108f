"""One writer an output, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from trident.errors import LockHeldError, StoreError
from trident.store import locks
from trident.store.lock_holder import read_lock
from trident.store.locks import OutputLock, lock_path, lock_status
from trident.store.processes import Liveness

HOLDER = """
import sys, time
from pathlib import Path
from trident.store.locks import OutputLock
with OutputLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""

RACER = """
import sys, time
from pathlib import Path
from trident.errors import LockHeldError
from trident.store.locks import OutputLock
output, start = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not start.exists():
    time.sleep(0.0005)
try:
    with OutputLock(output):
        print("won", flush=True)
        sys.stdin.readline()
except LockHeldError:
    print("lost", flush=True)
"""

WORKER = """
import os, sys
from pathlib import Path
from trident.errors import LockHeldError
from trident.store.locks import OutputLock
folder = Path(sys.argv[1])
done = 0
while done < 30:
    try:
        with OutputLock(folder / "out.h5"):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "inside")
            done += 1
    except LockHeldError:
        pass
"""


def start_holder(output: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(output)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()
    if child.stdout:
        child.stdout.close()


def test_a_lock_says_who_and_is_gone_afterwards(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "a.h5"
    assert lock_status(output) is None
    with OutputLock(output) as lock:
        assert lock.path == tmp_path / "deep" / "a.h5.lock"
        content = json.loads(lock.path.read_text())
        assert content["pid"] == os.getpid()
        assert content["hostname"] == socket.gethostname()
        assert abs(datetime.fromisoformat(content["created_at"]).timestamp() - time.time()) < 60
        holder = lock_status(output)
        assert holder is not None
        assert holder.state is Liveness.ALIVE
        assert holder.is_in_use
    assert not lock.path.exists()
    assert lock_status(output) is None


def test_an_exception_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), OutputLock(tmp_path / "a.h5"):
        raise ValueError("mine")
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    child = start_holder(output)
    try:
        with pytest.raises(LockHeldError) as caught, OutputLock(output):
            pass
        message = str(caught.value)
        assert message.startswith(f"{output}: process {child.pid} on {socket.gethostname()}")
        assert "--clear_dead_locks" in message
        assert lock_path(output).exists()
    finally:
        kill(child)


def test_this_process_too_holds_an_output_once(tmp_path: Path) -> None:
    with OutputLock(tmp_path / "a.h5"):
        with pytest.raises(LockHeldError), OutputLock(tmp_path / "a.h5"):
            pass
        assert lock_status(tmp_path / "a.h5") is not None
        with OutputLock(tmp_path / "b.h5"):
            pass


def test_a_killed_writers_lock_is_taken_over(tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    kill(start_holder(output))
    left = lock_status(output)
    assert left is not None
    assert left.state is Liveness.DEAD
    with OutputLock(output) as lock:
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert not lock.path.exists()


def test_of_many_takers_one_wins(tmp_path: Path) -> None:
    for attempt in range(3):
        output = tmp_path / f"{attempt}.h5"
        kill(start_holder(output))
        start = tmp_path / f"start{attempt}"
        command = [sys.executable, "-c", RACER, str(output), str(start)]
        racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        start.write_text("")
        outcomes = []
        for racer in racers:
            assert racer.stdout is not None
            outcomes.append(racer.stdout.readline().strip())
        assert sorted(outcomes) == ["lost", "lost", "lost", "won"]
        for racer in racers:
            racer.communicate("\n", timeout=600)
        assert not lock_path(output).exists()


def test_never_two_inside(tmp_path: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(600) for child in children] == [0, 0, 0]


def lock_text(**fields: object) -> str:
    return json.dumps({"pid": os.getpid(), "hostname": socket.gethostname(), "created_at": "2001-01-01", **fields})


@pytest.mark.parametrize(
    ("content", "who"),
    [
        (lock_text(), f"process {os.getpid()} on"),
        (lock_text(hostname="elsewhere", pid=2**22 + 3), "process 4194307 on elsewhere (since 2001-01-01)"),
        (lock_text(pid_namespace="pid:[1]", pid=2**22 + 3), "process 4194307 on"),
        ("", "an unknown process (its lock is unreadable)"),
        ("half a lo", "an unknown process"),
        ("[1]", "an unknown process"),
        ("[" * 60_000, "an unknown process"),
        (lock_text(pid="7"), "an unknown process"),
        (lock_text(pid=True), "an unknown process"),
        (lock_text(pid=-1), "an unknown process"),
        (lock_text(hostname=None), "an unknown process"),
    ],
    ids=range(11),  # a process number in a test's name would be another one in each process
)
def test_a_writer_that_may_live_keeps_its_lock(tmp_path: Path, content: str, who: str) -> None:
    output = tmp_path / "a.h5"
    lock_path(output).write_text(content)
    with pytest.raises(LockHeldError, match="is writing it") as caught, OutputLock(output):
        pass
    assert who in str(caught.value)
    assert lock_path(output).read_text() == content


@pytest.mark.parametrize("fields", [{"pid": 2**22 + 3}, {"started_ticks": 1}])
def test_another_tools_dead_lock_is_taken_over(tmp_path: Path, fields: dict[str, object]) -> None:
    lock_path(tmp_path / "a.h5").write_text(lock_text(**fields))
    with OutputLock(tmp_path / "a.h5"):
        pass
    assert not lock_path(tmp_path / "a.h5").exists()


def test_a_lock_that_is_no_longer_ours_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OutputLock(tmp_path / "a.h5") as lock:
        lock.path.unlink()
        lock.path.write_text(lock_text())
    assert lock.path.read_text() == lock_text()
    assert "removed or taken by another process" in caplog.text


@pytest.mark.parametrize("stem", ["x" * 252, "ü" * 126])
def test_long_names(tmp_path: Path, stem: str) -> None:
    output = tmp_path / f"{stem}.h5"
    output.write_text("")
    with OutputLock(output) as lock:
        assert lock.path.name.endswith(".h5.lock")
        assert json.loads(lock.path.read_text())["output"] == output.name
        with pytest.raises(LockHeldError), OutputLock(output):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"a\.h5\.lock: cannot be written"), OutputLock(tmp_path / "file" / "a.h5"):
        pass


@pytest.mark.parametrize(
    ("created_at", "age_s", "shown"),
    [
        ("2001-01-01T00:00:00Z", 20 * 365 * 86400, " h"),
        ("2001-01-01T00:00:00", 20 * 365 * 86400, " h"),
        ("yesterday", 0, " s"),
        (None, 0, " s"),
        (5, 0, " s"),
    ],
)
def test_the_age_of_another_tools_lock(tmp_path: Path, created_at: object, age_s: float, shown: str) -> None:
    path = tmp_path / "a.h5.lock"
    path.write_text(lock_text(created_at=created_at))
    holder = read_lock(path)
    assert holder is not None
    assert holder.silent_s >= age_s
    assert holder.silent_for().endswith(shown)
    assert not holder.is_in_use


# Processes that end in the middle of their work

ENDING = """
import os, sys, threading
from pathlib import Path
from trident.errors import LockHeldError
from trident.store import locks
folder = Path(sys.argv[1])
def work(name):
    while True:
        try:
            with locks.OutputLock(folder / name):
                pass
        except LockHeldError:
            pass
for name in ("a.h5", "b.h5", "c.h5"):
    threading.Thread(target=work, args=(name,), daemon=True).start()
threading.Event().wait(float(sys.argv[2]))
locks.release_all()
os._exit(0)
"""


def test_a_process_that_ends_takes_no_lock_any_more(tmp_path: Path) -> None:
    for number in range(15):
        subprocess.run([sys.executable, "-c", ENDING, str(tmp_path), str(0.01 * number)], check=True)
        assert list(tmp_path.glob("*.lock")) == []


def test_a_lock_has_its_content_from_the_first_moment(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDING, str(tmp_path), "3600"])
    seen = 0
    try:
        while seen < 1000:
            assert process.poll() is None
            for path in tmp_path.glob("*.lock"):
                try:
                    text = path.read_text()
                except FileNotFoundError:
                    continue
                seen += 1
                assert json.loads(text)["pid"] == process.pid
    finally:
        process.kill()
        process.wait()
    for name in ("a.h5", "b.h5", "c.h5"):  # whatever the kill left, the next run takes over
        with OutputLock(tmp_path / name):
            pass


# Locks of hosts that died


@pytest.mark.parametrize(
    ("refreshed", "changes", "taken"),
    [(True, {}, True), (True, {"touched": True}, False), (True, {"replaced": True}, False), (False, {}, False)],
)
def test_a_lock_of_another_host_that_is_seen_to_stand_still_is_taken_over(
    refreshed: bool, changes: dict[str, bool], taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.h5"
    monkeypatch.setattr(locks, "ABANDONED_S", 0.2)
    content = {"pid": 1, "hostname": "elsewhere", "created_at": "2020-01-01T00:00:00+00:00", "lock_id": "a1"}
    if refreshed:
        content["refresh_s"] = 15
    lock_path(output).write_text(json.dumps(content))
    # However old it is, and whatever the other host's clock says: only what is seen from here counts.
    os.utime(lock_path(output), (1, 1))
    with pytest.raises(LockHeldError):
        OutputLock(output).__enter__()
    time.sleep(0.3)
    if "touched" in changes:
        os.utime(lock_path(output), (2, 2))
    if "replaced" in changes:
        lock_path(output).write_text(json.dumps({**content, "lock_id": "b2"}))
        os.utime(lock_path(output), (1, 1))
    if not taken:
        with pytest.raises(LockHeldError):
            OutputLock(output).__enter__()
        return
    with OutputLock(output):
        holder = lock_status(output)
        assert holder is not None and holder.pid == os.getpid()
    assert not lock_path(output).exists()
