"""Slides for the cache (plain bytes where no reader opens them), and real processes that use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from trident.staging import copying, opening
from trident.staging.cache import SlideCache

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import os, sys, time
from pathlib import Path
from trident.staging.cache import SlideCache
from trident.staging.opening import staged
from trident.staging.prefetch import Prefetcher
folder, slots, arguments = Path(sys.argv[1]), int(sys.argv[2]), [Path(a) for a in sys.argv[3:]]
def slow(source, target, check):
    # Half of it, then nothing more until a line comes.
    content = source.read_bytes()
    with target.open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        print("half", flush=True)
        while not (folder.parent / "go on").exists():
            check()
            time.sleep(0.002)
        file.write(content[len(content) // 2 :])
def throttled(source, target, check):
    content = source.read_bytes()
    with target.open("wb") as file:
        for start in range(0, len(content), 1000):
            check()
            file.write(content[start : start + 1000])
            time.sleep(0.002)
"""


@pytest.fixture
def slides(tmp_path: Path) -> list[Path]:
    """Six files of different content."""
    folder = tmp_path / "slow"
    folder.mkdir()
    for index in range(6):
        folder.joinpath(f"slide{index}.svs").write_bytes(bytes([index]) * (4000 + index))
    return sorted(folder.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> SlideCache:
    """A cache of two slots in a folder that is not there yet."""
    return SlideCache(tmp_path / "fast", 2)


@pytest.fixture
def huge(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Function (path): makes a file that is larger than what the disk of the cache is said to have left."""
    free = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda path: free)

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(free.free + 1)

    return make


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings that come once in a process come once in a test."""
    monkeypatch.setattr(opening, "_said", set())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Function (script, cache, *paths, before): starts a process with `PRELUDE` before the script; killed afterwards.

    `before` is a command that runs the command after it.
    """
    children: list[subprocess.Popen[str]] = []

    def begin(script: str, cache: SlideCache, *paths: Path, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", PRELUDE + script, str(cache.folder), str(cache.slots), *map(str, paths)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(
            [*before, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()
