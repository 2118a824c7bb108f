"""Liveness of processes that really run, end, or are mistaken for others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from trident.store.processes import Liveness, ProcessIdentity, current_process, liveness, utc_now


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    yield process
    process.kill()
    process.wait()


def test_this_process_is_alive() -> None:
    me = current_process()
    assert me.pid == os.getpid()
    assert liveness(me) is Liveness.ALIVE


def test_a_process_that_was_killed_is_dead_even_before_it_is_reaped(
    child: subprocess.Popen[bytes], wait_until: Callable[..., None]
) -> None:
    identity = replace(current_process(), pid=child.pid, started_ticks=None)
    assert liveness(identity) is Liveness.ALIVE
    child.kill()
    wait_until(lambda: liveness(identity) is Liveness.DEAD)  # a zombie: nobody has waited for it yet
    child.wait()
    assert liveness(identity) is Liveness.DEAD


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times come from /proc")
def test_a_number_that_was_handed_out_again_is_dead() -> None:
    me = current_process()
    assert me.started_ticks is not None
    assert liveness(replace(me, started_ticks=me.started_ticks - 1)) is Liveness.DEAD


def test_another_host_or_namespace_cannot_be_asked() -> None:
    me = current_process()
    assert liveness(replace(me, hostname="elsewhere", pid=2**22 + 5)) is Liveness.UNKNOWN
    assert liveness(replace(me, pid_namespace="pid:[1]", pid=2**22 + 5)) is Liveness.UNKNOWN


def test_another_boot_is_dead_only_when_silent_since() -> None:
    before = replace(current_process(), boot_id="another-boot")
    assert liveness(before) is Liveness.UNKNOWN
    assert liveness(before, last_seen=time.time()) is Liveness.UNKNOWN
    assert liveness(before, last_seen=1.0) is Liveness.DEAD


@pytest.mark.parametrize("pid", [2**22 + 7, 2**40])
def test_numbers_that_no_process_has(pid: int) -> None:
    assert liveness(ProcessIdentity(current_process().hostname, pid)) is Liveness.DEAD


def test_utc_now_sorts_and_has_a_zone() -> None:
    assert utc_now().endswith("+00:00")
    assert utc_now() <= utc_now()
