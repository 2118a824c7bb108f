"""Locks between processes and within one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trident.staging import flocks
from trident.staging.flocks import FileLock, guard
from trident.staging.problems import NotStagedError


def test_readers_share_and_a_writer_is_alone(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.try_shared()
    assert second.try_shared()
    assert not third.try_exclusive()
    first.close()
    assert not third.try_exclusive()
    second.close()
    second.close()
    assert third.try_exclusive()
    assert third.try_shared()  # an exclusive lock is turned into a shared one
    fourth = FileLock(tmp_path / "lock")
    assert fourth.try_shared()


def test_a_forked_child_neither_gives_a_lock_back_nor_keeps_it(tmp_path: Path) -> None:
    lock, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert lock.try_exclusive()
    ready, told = os.pipe()
    end, tell_end = os.pipe()
    child = os.fork()
    if child == 0:  # one copy is closed, another one stays open
        os.dup(lock.handle)
        lock.close()
        os.write(told, b"x")
        os.read(end, 1)
        os._exit(0)
    os.read(ready, 1)
    assert not other.try_exclusive()
    lock.close()
    assert other.try_exclusive()
    os.write(tell_end, b"x")
    os.waitpid(child, 0)


def test_a_guard_is_not_waited_for_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flocks, "GUARD_WAIT_S", 0.05)
    with guard(tmp_path / "guard"), pytest.raises(NotStagedError, match="kept this lock"), guard(tmp_path / "guard"):
        pass
    with guard(tmp_path / "guard"):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        FileLock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
