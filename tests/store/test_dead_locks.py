"""Which locks `--clear_dead_locks` removes, and which never."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.store.locks import OutputLock, clear_dead_locks, lock_path
from trident.store.processes import current_process

ME = {"pid": os.getpid(), "hostname": socket.gethostname()}
GONE = {"pid": 2**22 + 3, "hostname": socket.gethostname()}
ELSEWHERE = {"pid": 7, "hostname": "elsewhere"}
OURS = {"lock_id": "0", "refresh_s": 30}


def is_valid(output: Path) -> bool:
    return output.read_text() == "valid"


def put(output: Path, content: object, age_h: float) -> Path:
    lock = lock_path(output)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(content if isinstance(content, str) else json.dumps(content))
    moment = time.time() - age_h * 3600
    os.utime(lock, (moment, moment))
    return lock


@pytest.mark.parametrize(
    ("content", "age_h", "output", "reason"),
    [
        (GONE, 0, None, "its writer is dead"),
        (GONE, 0, "half", "its writer is dead"),
        ({**GONE, **OURS}, 0, None, "its writer is dead"),
        (ME, 0, None, None),
        (ME, 1000, None, None),
        (ME, 0, "valid", "its output exists and is valid"),
        (ME, 0, "half", None),
        ({**ME, **OURS}, 0, "valid", None),
        ({**ME, **OURS}, 1000, "valid", None),
        (ELSEWHERE, 23, None, None),
        (ELSEWHERE, 25, None, "cannot be asked from here"),
        (ELSEWHERE, 0, "valid", "its output exists and is valid"),
        ({**ELSEWHERE, "created_at": "2001-01-01T00:00:00+00:00"}, 0, None, "cannot be asked from here"),
        ({**ELSEWHERE, **OURS, "created_at": "2001-01-01T00:00:00+00:00"}, 0, None, None),
        ({**ELSEWHERE, **OURS}, 0.05, "valid", None),
        ({**ELSEWHERE, **OURS}, 1, "valid", "its output exists and is valid"),
        ({**ELSEWHERE, **OURS}, 25, None, "cannot be asked from here"),
        ("", 23, None, None),
        ("", 25, None, "it is unreadable"),
        ("garbage", 25, "half", "it is unreadable"),
        ("garbage", 0, "valid", "its output exists and is valid"),
    ],
)
def test_what_goes_and_what_stays(
    tmp_path: Path, content: object, age_h: float, output: str | None, reason: str | None
) -> None:
    target = tmp_path / "20x_256px_0px_overlap" / "patches" / "a_patches.h5"
    lock = put(target, content, age_h)
    if output is not None:
        target.write_text(output)
    removed = clear_dead_locks(tmp_path, 24, is_valid)
    assert lock.exists() is (reason is None)
    assert [path for path, _ in removed] == ([lock] if reason else [])
    assert all(reason in why for _, why in removed if reason)
    assert target.exists() is (output is not None)


def test_the_age_is_the_callers(tmp_path: Path) -> None:
    lock = put(tmp_path / "a.h5", ELSEWHERE, 2)
    assert clear_dead_locks(tmp_path, 3, is_valid) == []
    assert [path for path, _ in clear_dead_locks(tmp_path, 1, is_valid)] == [lock]


def test_a_lock_that_is_held_stays(tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    output.write_text("valid")
    with OutputLock(output) as lock:
        assert clear_dead_locks(tmp_path, 0, is_valid) == []
        assert lock.path.exists()


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    names = ["uv.lock", "poetry.lock", ".trident/executor.h5.lock", "deep/a.tar.lock", "a.h5.locked", ".lock"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.utime(path, (1, 1))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    target = put(outside / "a.h5", "", 1000)
    (tmp_path / "link.h5.lock").symlink_to(target)
    (tmp_path / "linked").symlink_to(outside)
    (tmp_path / "folder.h5.lock").mkdir()
    assert clear_dead_locks(tmp_path, 24, is_valid) == []
    assert all((tmp_path / name).exists() for name in names)
    assert target.exists()


def test_a_cut_name_still_finds_its_output(tmp_path: Path) -> None:
    output = tmp_path / ("x" * 252 + ".h5")
    output.write_text("valid")
    lock = put(output, {**ELSEWHERE, "output": output.name}, 0)
    assert [path for path, _ in clear_dead_locks(tmp_path, 24, is_valid)] == [lock]


def test_an_output_that_cannot_be_judged_is_not_valid(tmp_path: Path) -> None:
    def refuse(output: Path) -> bool:
        raise StoreError(f"{output}: damaged")

    lock = put(tmp_path / "a.h5", ELSEWHERE, 0)
    (tmp_path / "a.h5").write_text("x")
    assert clear_dead_locks(tmp_path, 24, refuse) == []
    assert lock.exists()


def test_a_machine_that_was_rebooted_since(tmp_path: Path) -> None:
    if current_process().boot_id is None:
        pytest.skip("this system does not number its boots")
    lock = put(tmp_path / "a.h5", {**ME, **OURS, "boot_id": "before"}, 24 * 3650)
    young = put(tmp_path / "b.h5", {**ME, **OURS, "boot_id": "before"}, 0)
    assert [path for path, _ in clear_dead_locks(tmp_path, 10**6, is_valid)] == [lock]
    assert young.exists()


def test_a_missing_job_has_no_locks(tmp_path: Path) -> None:
    assert clear_dead_locks(tmp_path / "none", 24, is_valid) == []
