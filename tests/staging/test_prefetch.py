"""The driver's thread keeps the slots filled with what comes next."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path

import pytest

from trident.errors import SettingsError
from trident.staging.cache import SlideCache
from trident.staging.copying import Check, copy_file
from trident.staging.folder import cache_root
from trident.staging.opening import staged
from trident.staging.prefetch import Prefetcher


def held(cache: SlideCache) -> list[str]:
    found = glob(f"{cache_root(cache.folder)}/slots/*/slide/*")  # noqa: PTH207 - Path.glob minds folders that vanish
    return sorted(Path(path).name for path in found)


def test_slides_are_copied_in_order_and_released_one_by_one(
    cache: SlideCache, slides: list[Path], wait_until: Callable[..., None]
) -> None:
    with Prefetcher(cache, slides) as prefetcher:
        wait_until(lambda: held(cache) == ["slide0.svs", "slide1.svs"])
        with staged(slides[5], cache) as path:  # its slots are taken by what comes first
            assert path == slides[5]
        prefetcher.release(slides[1])  # the order of the tasks' ends is not that of the slides
        wait_until(lambda: held(cache) == ["slide0.svs", "slide2.svs"])
        prefetcher.release(slides[3])
        prefetcher.release(slides[0])
        wait_until(lambda: held(cache) == ["slide2.svs", "slide4.svs"])
    assert held(cache) == []
    assert list((cache_root(cache.folder) / "needs").iterdir()) == []


def test_a_released_slide_that_is_still_read_goes_later(
    cache: SlideCache, slides: list[Path], wait_until: Callable[..., None]
) -> None:
    with Prefetcher(cache, slides[:3]) as prefetcher:
        wait_until(lambda: held(cache) == ["slide0.svs", "slide1.svs"])
        with staged(slides[0], cache) as path:
            prefetcher.release(slides[0])
            prefetcher.release(slides[1])
            wait_until(lambda: held(cache) == ["slide0.svs", "slide2.svs"])
            assert path.read_bytes() == slides[0].read_bytes()
        wait_until(lambda: held(cache) == ["slide2.svs"])


def test_two_jobs_share_one_cache(cache: SlideCache, slides: list[Path], wait_until: Callable[..., None]) -> None:
    with Prefetcher(cache, slides[:1]) as one, Prefetcher(cache, slides[:2]) as other:
        wait_until(lambda: held(cache) == ["slide0.svs", "slide1.svs"])
        wait_until(lambda: len(other._copied) == 2 and len(one._copied) == 1)
        one.release(slides[0])
        one.close()
        assert held(cache) == ["slide0.svs", "slide1.svs"]
        other.release(slides[0])
        wait_until(lambda: held(cache) == ["slide1.svs"])


def test_copies_of_a_run_that_was_killed_are_used(
    cache: SlideCache, slides: list[Path], wait_until: Callable[..., None]
) -> None:
    cache.acquire(slides[2]).close()
    cache.acquire(slides[5]).close()
    copied = []

    def copy(source: Path, target: Path, check: Check) -> None:
        copied.append(source)
        copy_file(source, target, check)

    with Prefetcher(SlideCache(cache.folder, 2, copy), slides[2:4]):
        wait_until(lambda: held(cache) == ["slide2.svs", "slide3.svs"])
    assert copied == [slides[3]]


def test_a_copy_is_stopped_when_its_slide_is_done_or_the_run_ends(
    cache: SlideCache, slides: list[Path], wait_until: Callable[..., None]
) -> None:
    begun: list[Path] = []

    def endless(source: Path, target: Path, check: Check) -> None:
        begun.append(source)
        while True:
            check()
            time.sleep(0.001)

    prefetcher = Prefetcher(SlideCache(cache.folder, 2, endless), slides)
    prefetcher.start()
    wait_until(lambda: begun == slides[:1])
    prefetcher.release(slides[0])
    wait_until(lambda: begun == slides[:2])
    prefetcher.close()
    prefetcher.close()
    assert list(cache_root(cache.folder).glob("slots/????")) == []


def test_a_slot_is_freed_while_the_next_slide_is_copied(
    cache: SlideCache, slides: list[Path], wait_until: Callable[..., None]
) -> None:
    go_on = threading.Event()

    def copy(source: Path, target: Path, check: Check) -> None:
        while source == slides[1] and not go_on.is_set():
            check()
            time.sleep(0.001)
        copy_file(source, target, check)

    with Prefetcher(SlideCache(cache.folder, 2, copy), slides) as prefetcher:
        wait_until(lambda: held(cache) == ["slide0.svs"])
        prefetcher.release(slides[0])
        wait_until(lambda: held(cache) == [])
        go_on.set()
        wait_until(lambda: held(cache) == ["slide1.svs", "slide2.svs"])


def test_what_cannot_be_copied_is_left_out(
    cache: SlideCache, slides: list[Path], caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    caplog.set_level(logging.INFO)
    missing, index = slides[0].with_name("missing.svs"), slides[0].with_name("bad.vms")
    index.write_text("ImageFile=../x.jpg\n")
    inside = cache_root(cache.folder) / "slots" / "0000" / "slide" / "x.svs"
    with Prefetcher(cache, [missing, index, inside, *slides]):
        wait_until(lambda: held(cache) == ["slide0.svs", "slide1.svs"])
    for slide in (missing, index):
        assert caplog.text.count(f"{slide}: not copied to the cache") == 1


def test_a_slide_larger_than_the_disk_does_not_stop_the_others(
    cache: SlideCache,
    slides: list[Path],
    caplog: pytest.LogCaptureFixture,
    wait_until: Callable[..., None],
    huge: Callable[[Path], None],
) -> None:
    huge(slides[0])
    with Prefetcher(cache, slides):
        wait_until(lambda: held(cache) == ["slide1.svs", "slide2.svs"])
    assert caplog.text.count("the disk is full") == 1


def test_a_cache_that_cannot_be_is_an_error_at_once(cache: SlideCache, slides: list[Path]) -> None:
    cache.folder.write_text("a file")
    with pytest.raises(SettingsError, match="--wsi_cache"):
        Prefetcher(cache, slides)


def test_a_cache_that_goes_away_stops_only_the_copying(
    cache: SlideCache, slides: list[Path], caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    with Prefetcher(cache, slides) as prefetcher:
        wait_until(lambda: held(cache) == ["slide0.svs", "slide1.svs"])
        cache_root(cache.folder).rename(cache.folder / "moved away")
        prefetcher.release(slides[0])
        wait_until(lambda: "no more slides are copied" in caplog.text)
        with staged(slides[1], cache) as path:
            assert path.read_bytes() == slides[1].read_bytes()
