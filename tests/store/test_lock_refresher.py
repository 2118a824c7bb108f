"""Held locks show signs of life."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trident.store import lock_refresher
from trident.store.locks import OutputLock


def test_only_held_locks_are_refreshed(tmp_path: Path) -> None:
    with OutputLock(tmp_path / "a.h5") as lock:
        os.utime(lock.path, (1, 1))
        lock_refresher.refresh_all()
        assert time.time() - lock.path.stat().st_mtime < 60
    lock.path.write_text("{}")
    os.utime(lock.path, (1, 1))
    lock_refresher.refresh_all()
    assert lock.path.stat().st_mtime == 1


def test_a_lock_that_somebody_else_made_is_not_refreshed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OutputLock(tmp_path / "a.h5") as lock:
        other = tmp_path / "other"
        other.write_text("{}")
        os.utime(other, (1, 1))
        other.replace(lock.path)
        lock_refresher.refresh_all()
        assert lock.path.stat().st_mtime == 1
    assert lock.path.exists()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_the_thread_does_it_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(lock_refresher, "REFRESH_S", 0.02)
    monkeypatch.setattr(lock_refresher, "_thread", None)  # a thread of this test's own pace
    with OutputLock(tmp_path / "a.h5") as lock:
        os.utime(lock.path, (1, 1))
        wait_until(lambda: lock.path.stat().st_mtime > 1)
    monkeypatch.undo()
    time.sleep(0.1)  # the quick thread falls back to the usual pace


FORKER = """
import os, sys
from pathlib import Path
from trident.store import lock_refresher
from trident.store.locks import OutputLock
lock_refresher.REFRESH_S = 3600
folder = Path(sys.argv[1])
with OutputLock(folder / "a.h5") as lock:
    os.utime(lock.path, (1, 1))
    child = os.fork()
    if child == 0:
        lock_refresher.refresh_all()
        lock.__exit__(None, None, None)
        with OutputLock(folder / "b.h5"):
            assert lock_refresher._thread.is_alive()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert lock.path.stat().st_mtime == 1
assert not lock.path.exists()
"""


def test_a_forked_child_neither_refreshes_nor_removes_its_parents_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKER, str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
