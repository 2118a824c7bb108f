"""Where sockets lie: a folder of this user alone, with a path short enough for a socket."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest

from trident.errors import ExecutorError
from trident.executors import leases
from trident.executors.runtime_dir import RunDir, runtime_dir


@pytest.fixture(autouse=True)
def _temporary(runtime_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(runtime_folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def test_the_users_runtime_folder_comes_first(runtime_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = runtime_folder / "given"
    given.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(given))
    assert runtime_dir() == given / "trident"
    assert runtime_dir().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("name", "is_there"), [("absent", False), ("x" * 100, True)], ids=["absent", "too long"])
def test_a_folder_that_does_not_do_is_passed_over(
    name: str, is_there: bool, runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_there:
        (runtime_folder / name).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder / name))
    assert runtime_dir() == Path(tempfile.gettempdir()) / f"trident-{os.getuid()}"


def test_a_long_folder_for_temporary_files_gives_way_to_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("y" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert runtime_dir() == Path("/tmp") / f"trident-{os.getuid()}"


@pytest.mark.parametrize("kind", ["writable by others", "a link", "a file"])
def test_a_folder_that_others_could_use_is_refused(kind: str) -> None:
    base = Path(tempfile.gettempdir()) / f"trident-{os.getuid()}"
    if kind == "a link":
        base.symlink_to("/tmp")
    elif kind == "a file":
        base.write_text("")
    else:
        base.mkdir()
        base.chmod(0o777)
    with pytest.raises(ExecutorError, match="XDG_RUNTIME_DIR"):
        runtime_dir()


def test_what_killed_runs_left_goes_and_what_lives_stays() -> None:
    living = RunDir()
    dead = runtime_dir() / "run-dead"
    dead.mkdir()
    (dead / "alive").touch()
    another = RunDir()
    assert living.path.exists()
    assert not dead.exists()
    for one in (living, another):
        one.close()
        assert not one.path.exists()


def test_a_place_on_a_device_is_held_by_one_and_comes_free(tmp_path: Path) -> None:
    asked: list[float] = []
    freed = threading.Event()

    def wait(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 3:
            first.__exit__(None, None, None)
            freed.set()

    first = leases.device_lease(tmp_path, "GPU-1/2", 1, wait)
    first.__enter__()
    with leases.device_lease(tmp_path, "0", 1, wait):
        assert asked == []  # another device
    with leases.device_lease(tmp_path, "GPU-1/2", 1, wait):
        assert freed.is_set()
    assert len(asked) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu-0.0", "gpu-GPU-1_2.0"]


def test_giving_up_the_wait_for_a_place(tmp_path: Path) -> None:
    def give_up(seconds: float) -> None:
        raise KeyboardInterrupt

    with leases.device_lease(tmp_path, "0", 1, give_up), pytest.raises(KeyboardInterrupt):
        leases.device_lease(tmp_path, "0", 1, give_up).__enter__()
