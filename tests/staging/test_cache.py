"""Slots are found, filled, shared and emptied; nothing else is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trident.slides.registry import open_slide
from trident.staging.cache import SlideCache, key_of
from trident.staging.copying import Check, copy_file
from trident.staging.folder import cache_root
from trident.staging.problems import NoRoomError, NoSlotError, NotStagedError


def held(cache: SlideCache) -> list[str]:
    """Names of the whole slides in the cache."""
    return sorted(path.name for path in cache_root(cache.folder).glob("slots/*/slide/*"))


def everything(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


class Counting:
    """Copies, and remembers what."""

    def __init__(self) -> None:
        self.copied: list[str] = []

    def __call__(self, source: Path, target: Path, check: Check) -> None:
        self.copied.append(source.name)
        copy_file(source, target, check)


def test_a_copy_is_made_once(cache: SlideCache, slides: list[Path]) -> None:
    counting = Counting()
    cache = SlideCache(cache.folder, 2, counting)
    first, second = cache.acquire(slides[0]), cache.acquire(slides[0])
    assert first.path == second.path != slides[0]
    assert first.path.read_bytes() == slides[0].read_bytes()
    first.close()
    second.close()
    cache.acquire(slides[0]).close()
    assert counting.copied == ["slide0.svs"]


def test_a_slot_goes_to_the_next_when_nobody_reads_or_needs_it(cache: SlideCache, slides: list[Path]) -> None:
    first, second = cache.acquire(slides[0]), cache.acquire(slides[1])
    with pytest.raises(NoSlotError, match="all 2 slots"):
        cache.acquire(slides[2])
    second.close()
    cache.acquire(slides[2]).close()
    assert held(cache) == ["slide0.svs", "slide2.svs"]
    first.close()
    needs = cache.new_needs()
    cache.acquire(slides[2], needs).close()
    cache.acquire(slides[3]).close()
    assert held(cache) == ["slide2.svs", "slide3.svs"]
    cache.drop(needs, slides[2])
    needs_of_both = [cache.acquire(slide, needs) for slide in (slides[4], slides[5])]
    assert held(cache) == ["slide4.svs", "slide5.svs"]
    for lease in needs_of_both:
        lease.close()
    with pytest.raises(NoSlotError):
        cache.acquire(slides[0])
    cache.drop(needs)  # the driver ends
    cache.acquire(slides[0]).close()


def test_an_empty_slot_is_taken_before_a_whole_copy(cache: SlideCache, slides: list[Path]) -> None:
    for slide in slides[:2]:
        cache.acquire(slide).close()
    assert held(cache) == ["slide0.svs", "slide1.svs"]


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_slide_is_copied_again(cache: SlideCache, slides: list[Path], change: str) -> None:
    slide, status = slides[0], slides[0].stat()
    lease = cache.acquire(slide)
    if change == "size":
        slide.write_bytes(b"new content")
        os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        slide.write_bytes(slide.read_bytes()[::-1])
        os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(NotStagedError, match="outdated one is still being read"):
        cache.acquire(slide)
    lease.close()
    again = cache.acquire(slide)
    assert again.path.read_bytes() == slide.read_bytes()
    assert held(cache) == ["slide0.svs"]


def test_a_slide_that_is_gone_has_no_copy(cache: SlideCache, slides: list[Path]) -> None:
    cache.acquire(slides[0]).close()
    slides[0].unlink()
    with pytest.raises(FileNotFoundError):
        cache.acquire(slides[0])


def test_a_damaged_copy_is_made_again(cache: SlideCache, slides: list[Path]) -> None:
    lease = cache.acquire(slides[0])
    lease.close()
    lease.path.write_bytes(b"")
    again = cache.acquire(slides[0])
    assert again.path.read_bytes() == slides[0].read_bytes()


def test_two_slides_of_one_name(cache: SlideCache, tmp_path: Path) -> None:
    leases = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "slide.svs").write_text(folder)
        leases.append(cache.acquire(tmp_path / folder / "slide.svs"))
    assert [lease.path.read_text() for lease in leases] == ["a", "b"]


ODD = [
    b"with blanks .svs",
    b"-rf.svs",
    "Größe µm 中.svs".encode(),
    b"\xff\xfe no text.svs",
    b"line\nbreak.svs",
    b"quote'\"$(x).svs",
    b"slot.json",
    b"x" * 251 + b".svs",
    b"no_extension",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names(cache: SlideCache, tmp_path: Path, name: bytes) -> None:
    slide = tmp_path / os.fsdecode(name)
    slide.write_bytes(name)
    lease = cache.acquire(slide)
    assert os.fsencode(lease.path.name) == name
    assert lease.path.read_bytes() == name
    lease.close()
    assert cache.evict(slide)
    assert held(cache) == []


def test_foreign_files_stay(cache: SlideCache, slides: list[Path]) -> None:
    for name in ("mine.svs", "slots/0000/slide/mine.svs", ".hidden/x", "slot.json"):
        path = cache.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = everything(cache.folder)
    for slide in slides:
        cache.acquire(slide).close()
        cache.evict(slide)
    cache.sweep()
    after = everything(cache.folder)
    assert {path: after.get(path) for path in before} == before
    assert all(path.is_relative_to(cache_root(cache.folder)) for path in after.keys() - before.keys())


def test_the_cache_beside_the_slides(slides: list[Path]) -> None:
    cache = SlideCache(slides[0].parent, 2)
    originals = {slide: slide.read_bytes() for slide in slides}
    for slide in slides:
        cache.acquire(slide).close()
    cache.sweep()
    assert {slide: slide.read_bytes() for slide in slides} == originals
    assert held(cache) == []
    assert cache.is_inside(cache_root(cache.folder) / "slots" / "0000" / "slide" / "a.svs")
    assert not cache.is_inside(slides[0])


def test_evict(cache: SlideCache, slides: list[Path]) -> None:
    lease = cache.acquire(slides[0])
    assert not cache.evict(slides[0])  # it is read
    assert lease.path.exists()
    lease.close()
    ours, theirs = cache.new_needs(), cache.new_needs()
    for needs in (ours, theirs):
        cache.acquire(slides[0], needs).close()
    cache.drop(ours, slides[0])
    assert cache.evict(slides[0])  # nothing to wait for: another driver needs it
    assert held(cache) == ["slide0.svs"]
    cache.drop(theirs)
    assert cache.evict(slides[0])
    assert held(cache) == []
    assert cache.evict(slides[0])


def test_a_sweep_keeps_what_is_read_needed_or_asked_for(tmp_path: Path, slides: list[Path]) -> None:
    large = SlideCache(tmp_path / "fast", 5)
    needs = large.new_needs()
    lease = large.acquire(slides[0])
    large.acquire(slides[1], needs).close()
    large.acquire(slides[2]).close()
    large.acquire(slides[3]).close()
    large.acquire(slides[4]).close()
    half = cache_root(large.folder) / "slots" / "0007" / "incoming"
    half.mkdir(parents=True)
    SlideCache(large.folder, 4).sweep(keep=[slides[3], slides[4]])  # the fifth slot is one too many
    assert held(large) == ["slide0.svs", "slide1.svs", "slide3.svs"]
    assert not half.exists()
    lease.close()
    large.sweep()
    assert held(large) == ["slide1.svs"]


def test_a_smaller_cache_uses_the_slots_that_are_there_and_fills_no_more(tmp_path: Path, slides: list[Path]) -> None:
    large, small = SlideCache(tmp_path / "fast", 4), SlideCache(tmp_path / "fast", 1)
    leases = [large.acquire(slide) for slide in slides[:3]]
    assert small.acquire(slides[2]).path == leases[2].path
    leases[1].close()
    with pytest.raises(NoSlotError):  # the second slot is none of the smaller one's
        small.acquire(slides[3])
    leases[0].close()
    assert small.acquire(slides[3]).path.parent == leases[0].path.parent


def test_a_slide_that_does_not_fit(cache: SlideCache, tmp_path: Path, huge: Callable[[Path], None]) -> None:
    huge(tmp_path / "huge.svs")
    with pytest.raises(NoRoomError):
        cache.acquire(tmp_path / "huge.svs")
    assert list(cache_root(cache.folder).glob("slots/????")) == []


def test_a_failed_copy_leaves_an_empty_slot(cache: SlideCache, slides: list[Path]) -> None:
    def fails(source: Path, target: Path, check: Check) -> None:
        target.write_bytes(b"half")
        raise ValueError("unforeseen")

    with pytest.raises(ValueError, match="unforeseen"):
        SlideCache(cache.folder, 2, fails).acquire(slides[0])
    assert list(cache_root(cache.folder).glob("slots/????")) == []
    assert cache.acquire(slides[0]).path.read_bytes() == slides[0].read_bytes()


def test_keys_differ() -> None:
    paths = [Path("/a/b.svs"), Path("/a/c.svs"), Path("/b/b.svs"), Path("/a/B.svs"), Path(os.fsdecode(b"/\xff.svs"))]
    assert len({key_of(path) for path in paths}) == len(paths)


def test_a_folder_slide_is_copied_whole(cache: SlideCache, tmp_path: Path) -> None:
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0.dat", "b.ome.zarr/.zattrs", "b.ome.zarr/0/0/0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for slide, files in (
        ("a.mrxs", ["a.mrxs", "a/Slidedat.ini", "a/Data0.dat"]),
        ("b.ome.zarr", ["b.ome.zarr/.zattrs", "b.ome.zarr/0/0/0"]),
    ):
        lease = cache.acquire(tmp_path / slide)
        assert lease.path.name == slide
        copied = {p.relative_to(lease.path.parent).as_posix(): p for p in lease.path.parent.rglob("*") if p.is_file()}
        assert {name: path.read_text() for name, path in copied.items()} == {name: name for name in files}
        lease.close()


def test_a_dicom_series_opens_from_its_copy(cache: SlideCache, tmp_path: Path, shared_slides: Path) -> None:
    for name in ("boxes_0.dcm", "boxes_1.dcm", "boxes.tiff"):
        shutil.copyfile(shared_slides / name, tmp_path / name)
    for source in (tmp_path / "boxes_0.dcm", tmp_path):
        lease = cache.acquire(source)
        there, here = open_slide(source), open_slide(lease.path)
        held_files = sorted(path.name for path in (lease.path if source.is_dir() else lease.path.parent).iterdir())
        assert held_files == ["boxes_0.dcm", "boxes_1.dcm"]
        assert there.properties == here.properties
        assert there.level_dimensions == here.level_dimensions
        size = there.dimensions
        assert (there.read_region((0, 0), 0, size) == here.read_region((0, 0), 0, size)).all()
