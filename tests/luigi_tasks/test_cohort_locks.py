"""Locks that a run meets: of the dead, of the living, and of other hosts."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luigi_tasks import cohort
from trident.exit_codes import OK, STOPPED

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "_POLL_S", 0.01)


def _foreign_lock(output: Path, **fields: Any) -> Path:
    lock = output.with_name(output.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps(fields))
    return lock


def test_a_lock_of_another_host_costs_its_slide_and_no_other(run: Run, wsis: Path, job: Any) -> None:
    lock = _foreign_lock(job.tissue("a"), pid=1, hostname="elsewhere", created_at="2020-01-01T00:00:00+00:00")
    done = run("all")
    assert done.code == STOPPED
    assert "process 1 on " in done.err
    assert "elsewhere" in done.err
    assert "--clear_dead_locks" in done.err
    assert job.embedding("b").is_file()
    assert lock.exists()
    assert not job.tissue("a").exists()
    assert run("all", "--clear_dead_locks").code == OK
    assert not lock.exists()
    assert job.embedding("a").is_file()


def test_a_lock_of_a_dead_process_of_this_host_is_taken_over(
    run: Run, wsis: Path, job: Any, left_behind: Callable[[Path], list[Path]]
) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    lock = _foreign_lock(job.tissue("a"), pid=child, hostname=socket.gethostname())
    assert run("seg").code == OK
    assert not lock.exists()
    assert left_behind(job.path) == []


def test_a_fresh_lock_is_not_cleared_before_its_age(run: Run, wsis: Path, job: Any) -> None:
    lock = _foreign_lock(job.tissue("a"), pid=1, hostname="elsewhere")
    assert run("seg", "--clear_dead_locks").code == STOPPED
    assert lock.exists()
    assert run("seg", "--clear_dead_locks", "--dead_lock_max_age_hours", 0).code == OK
