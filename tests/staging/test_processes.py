"""Real processes share the cache, and are killed in the middle of it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path

import pytest

from trident.staging.cache import SlideCache
from trident.staging.folder import cache_root
from trident.staging.opening import staged
from trident.staging.problems import BeingCopiedError, NoSlotError
from trident.staging.slots import all_slots

Start = Callable[..., "subprocess.Popen[str]"]

TASK = """
with staged(arguments[0], SlideCache(folder, slots)) as path:
    print(path.read_bytes() == arguments[0].read_bytes() and path != arguments[0], flush=True)
    sys.stdin.readline()
"""

COPIER = "SlideCache(folder, slots, slow).acquire(arguments[0])"

DRIVER = """
with Prefetcher(SlideCache(folder, slots), arguments):
    sys.stdin.readline()
"""

RESTLESS = """
cache = SlideCache(folder, slots, throttled)
print("ready", flush=True)
while True:
    with Prefetcher(cache, arguments) as prefetcher:
        for slide in arguments:
            with staged(slide, cache) as path:
                assert path.read_bytes() == slide.read_bytes()
                time.sleep(0.02)
            prefetcher.release(slide)
"""

COHORT = """
import random
from glob import glob
cache = SlideCache(folder, slots, throttled)
random.seed(os.getpid())
copies = most = 0
def occupied():
    slots = glob(f"{folder}/.*/slots/????")
    return sum(any(files for inside, _, files in os.walk(slot) if inside != slot) for slot in slots)
def work(slide):
    global copies, most
    for stage in range(2):
        with staged(slide, cache) as path:
            assert path.read_bytes() == slide.read_bytes()
            time.sleep(random.random() * 0.01)
            assert path.read_bytes() == slide.read_bytes()
            copies += path != slide
            most = max(most, occupied())
if sys.stdin.readline() == "driver\\n":
    with Prefetcher(cache, arguments) as prefetcher:
        for slide in arguments:
            time.sleep(0.03)
            work(slide)
            prefetcher.release(slide)
else:
    for _ in range(3):
        for slide in arguments:
            work(slide)
print(copies, most, flush=True)
"""

SMALL_DISK = """
import logging
from contextlib import ExitStack
from glob import glob  # unlike Path.glob it does not mind a folder that goes away meanwhile
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
def ballast(source, target, check):
    # Something else fills the disk at this very moment.
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 1024) == 1024:
                pass
        except OSError:
            pass
    target.write_bytes(source.read_bytes())
def show(slide, path, before=""):
    kind = "copy" if path != slide else "itself"
    print(before + slide.name, kind, path.read_bytes() == slide.read_bytes())
with ExitStack() as stack:
    for slide in arguments[:3]:
        show(slide, stack.enter_context(staged(slide, SlideCache(folder, slots))))
SlideCache(folder, slots).sweep()
with staged(arguments[0], SlideCache(folder, slots, ballast)) as path:
    show(arguments[0], path, "meanwhile: ")
(folder / "ballast").rename(folder / "mine")
(folder / "mine").write_bytes(b"mine")
def copies():
    return len(glob(f"{folder}/.*/slots/*/slide/*"))
with Prefetcher(SlideCache(folder, slots), arguments) as prefetcher:
    while copies() < 2:
        time.sleep(0.01)
    for slide in arguments[:-1]:
        prefetcher.release(slide)
    while copies() != 1 or not glob(f"{folder}/.*/slots/*/slide/slide5.svs"):
        time.sleep(0.01)
    print("left:", copies(), "of", [path.name for path in folder.glob("[!.]*")])
"""

QUOTA = """
import logging, resource
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for slide in arguments:
    with staged(slide, SlideCache(folder, slots)) as path:
        print("copy" if path != slide else "itself", path.read_bytes() == slide.read_bytes())
"""


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().rstrip("\n")


def now_in(cache: SlideCache, pattern: str) -> list[Path]:
    """What is in the cache, which changes meanwhile."""
    return list(map(Path, glob(f"{cache_root(cache.folder)}/{pattern}")))  # noqa: PTH207 - Path.glob minds one that goes


def occupied(cache: SlideCache) -> list[Path]:
    """Slots with anything of a slide in them, seen from outside."""
    slots = now_in(cache, "slots/????")
    return [slot for slot in slots if any(files for folder, _, files in os.walk(slot) if Path(folder) != slot)]


def test_a_copier_is_killed_in_the_middle(cache: SlideCache, slides: list[Path], start: Start) -> None:
    child = start(COPIER, cache, slides[0])
    assert line(child) == "half"
    with staged(slides[0], cache) as path:  # somebody else's copy is not waited for
        assert path == slides[0]
    with pytest.raises(BeingCopiedError):
        cache.acquire(slides[0])
    assert not cache.evict(slides[0])
    assert len(occupied(cache)) == 1
    kill(child)
    lease = cache.acquire(slides[0])
    assert lease.path.read_bytes() == slides[0].read_bytes()
    assert len(occupied(cache)) == 1


def test_half_copies_of_the_dead_are_swept(cache: SlideCache, slides: list[Path], start: Start) -> None:
    children = [start(COPIER, cache, slide) for slide in slides[:2]]
    assert [line(child) for child in children] == ["half", "half"]
    with pytest.raises(NoSlotError):
        cache.acquire(slides[2])
    kill(children[0])
    cache.sweep()
    assert len(occupied(cache)) == 1
    (cache.folder.parent / "go on").touch()
    children[1].wait()
    cache.sweep()
    assert occupied(cache) == []


def test_a_reader_is_killed(cache: SlideCache, slides: list[Path], start: Start) -> None:
    children = []
    for _ in range(2):
        children.append(start(TASK, cache, slides[0]))
        assert line(children[-1]) == "True"
    assert not cache.evict(slides[0])
    for child in children:
        kill(child)
    assert cache.evict(slides[0])
    assert occupied(cache) == []


def test_a_driver_is_killed(
    cache: SlideCache, slides: list[Path], start: Start, wait_until: Callable[..., None]
) -> None:
    child = start(DRIVER, cache, *slides)
    wait_until(lambda: len(now_in(cache, "slots/*/slide/*")) == 2, child)
    with staged(slides[0], cache) as path:
        assert path != slides[0]
    with pytest.raises(NoSlotError):  # nobody reads them, but they are still needed
        cache.acquire(slides[5])
    kill(child)
    cache.acquire(slides[5]).close()
    cache.sweep()
    assert occupied(cache) == []


def test_no_kill_leaves_a_wrong_copy(tmp_path: Path, slides: list[Path], start: Start) -> None:
    cache = SlideCache(tmp_path / "fast", 5)
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    contents = {slide.name: slide.read_bytes() for slide in slides}
    wholes = 0
    for _ in range(6):
        children = [start(RESTLESS, cache, *order) for order in (slides, slides[::-1])]
        for child in children:
            assert line(child) == "ready"
        for child in children:
            time.sleep(moments.random() * 0.15)
            assert child.poll() is None, f"seed {seed}"
            kill(child)
        assert len(occupied(cache)) <= 5, f"seed {seed}"
        for slot in all_slots(cache_root(cache.folder) / "slots", 0):
            record = slot.read()
            if record is not None and record.complete:
                wholes += 1
                assert (slot.slide_dir / record.name).read_bytes() == contents[record.name], f"seed {seed}"
        with staged(slides[0], cache) as path:  # nothing is left locked
            assert path != slides[0]
            assert path.read_bytes() == contents["slide0.svs"]
    assert wholes > 0
    assert {slide.name: slide.read_bytes() for slide in slides} == contents


def test_four_processes_never_hold_more_than_the_slots(cache: SlideCache, slides: list[Path], start: Start) -> None:
    (cache.folder / "mine").mkdir(parents=True)
    orders = [slides, slides[::-1], slides, slides[2:] + slides[:2]]
    children = [start(COHORT, cache, *order) for order in orders]
    for child, role in zip(children, ("driver", "driver", "task", "task"), strict=True):
        assert child.stdin is not None
        child.stdin.write(f"{role}\n")
        child.stdin.flush()
    most = 0
    while any(child.poll() is None for child in children):
        most = max(most, len(occupied(cache)))
        time.sleep(0.001)
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    said = [tuple(map(int, line(child).split())) for child in children]
    assert sum(copies for copies, _ in said) > 0
    assert max(most, *(seen for _, seen in said)) == 2  # they look themselves, too, each time that they read a slide
    cache.sweep()
    assert occupied(cache) == []
    assert sorted(path.name for path in cache.folder.iterdir()) == [cache_root(cache.folder).name, "mine"]


def test_a_small_disk(cache: SlideCache, slides: list[Path], start: Start) -> None:
    for index, slide in enumerate(slides):
        slide.write_bytes(bytes([index]) * 70_000)
    cache.folder.mkdir()
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare (util-linux) is not installed, so no small disk can be mounted")
    mount = f"mount -t tmpfs -o size=200k none '{cache.folder}'"
    inside = [unshare, "--user", "--map-root-user", "--mount", "sh", "-ec"]
    if subprocess.run([*inside, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this host does not let its users mount a small disk")
    child = start(SMALL_DISK, SlideCache(cache.folder, 5), *slides, before=[*inside, f'{mount}; exec "$@"', "sh"])
    out, _ = child.communicate(timeout=600)
    assert child.returncode == 0
    lines = out.splitlines()
    assert [said for said in lines if "disk is full" not in said] == [
        "slide0.svs copy True",
        "slide1.svs copy True",
        "slide2.svs itself True",
        "meanwhile: slide0.svs itself True",
        "left: 1 of ['mine']",
    ]
    assert sum("the disk is full" in said for said in lines) == 1


def test_a_disk_that_becomes_full_meanwhile(cache: SlideCache, slides: list[Path], start: Start) -> None:
    child = start(QUOTA, cache, *slides[:2])
    out, _ = child.communicate(timeout=600)
    assert out.splitlines()[0].startswith(f"{cache.folder}: the disk is full; slides that do not fit are read where")
    assert out.splitlines()[1:] == ["itself True", "itself True"]
    assert occupied(cache) == []
    assert [path.name for path in cache_root(cache.folder).glob("slots/*")] == ["0000.lock"]
