"""trident/features/patch_batches.py: order, threads and what happens to patches that do not decode."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms

from trident.errors import SettingsError, UnreadableSlideError
from trident.features.buffers import BufferPool
from trident.features.patch_batches import PatchBatches, ReadPatch
from trident.patching.grid import ReadPlan
from trident.patching.reader import PatchReader
from trident.slides.base import AnnouncedRegions, RGBImage, Slide

TO_TENSOR = transforms.Compose([transforms.ToTensor()])


def _coords(n: int) -> np.ndarray:
    return np.stack([np.arange(n), np.arange(n) // 7], axis=1).astype(np.int64)


def _numbered(x: int, y: int) -> RGBImage:
    """A patch that says which one it is; later ones come back sooner."""
    time.sleep(0.0005 * (5 - x % 5))
    return np.full((4, 6, 3), x % 256, dtype=np.uint8)


def _batches(
    read: ReadPatch | PatchReader, n: int, *, batch_size: int, workers: int, share: float = 0.01
) -> PatchBatches:
    return PatchBatches(
        read,
        _coords(n),
        [TO_TENSOR],
        batch_size=batch_size,
        workers=workers,
        pinned=False,
        max_unreadable_share=share,
    )


def _pixels(batches: PatchBatches) -> tuple[list[int], list[int]]:
    """(first pixel of every patch, start of every batch)."""
    values: list[int] = []
    starts = []
    with batches:
        for batch in batches:
            values += batches.pixels(batch)[:, 0, 0, 0].tolist()
            starts.append(batch.start)
            batches.release(batch)
    return values, starts


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("trident-read")]


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_order(batch_size: int, workers: int) -> None:
    values, starts = _pixels(_batches(_numbered, 70, batch_size=batch_size, workers=workers))
    assert values == list(range(70))
    assert starts == list(range(0, 70, batch_size))
    assert _readers() == []


def test_read_ahead_is_bounded() -> None:
    begun: set[int] = set()

    def read(x: int, y: int) -> RGBImage:
        begun.add(x)
        return np.zeros((4, 4, 3), dtype=np.uint8)

    with _batches(read, 1000, batch_size=5, workers=2) as batches:
        first = next(iter(batches))
        time.sleep(0.1)
        assert first.start == 0
        assert max(begun) < 10


def test_buffers_are_used_again() -> None:
    with _batches(_numbered, 60, batch_size=3, workers=2) as batches:
        seen = set()
        for batch in batches:
            seen.add(batch.buffers[0].data_ptr())
            batches.release(batch)
    assert len(seen) <= 3


def test_the_next_slide_gets_the_memory_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BufferPool()
    for module in ("patch_batches", "prepare"):
        monkeypatch.setattr(f"trident.features.{module}.batch_buffers", pool)

    def memory_of(batches: PatchBatches) -> set[int]:
        with batches:
            seen = set()
            for batch in batches:
                seen |= {batch.buffers[0].data_ptr(), batches.finish(batches.pixels(batch)).data_ptr()}
                batches.release(batch)
        return seen

    first = memory_of(_batches(_numbered, 9, batch_size=3, workers=0))
    assert memory_of(_batches(_numbered, 9, batch_size=3, workers=0)) == first


def test_a_batch_that_was_not_released_is_left_alone() -> None:
    with _batches(_numbered, 3, batch_size=3, workers=0) as batches:
        kept = next(iter(batches))
    before = batches.pixels(kept).clone()
    _pixels(_batches(_failing(set()), 3, batch_size=3, workers=0))
    assert torch.equal(batches.pixels(kept), before)


def _failing(bad: set[int]) -> ReadPatch:
    def read(x: int, y: int) -> RGBImage:
        if x in bad:
            raise UnreadableSlideError(Path("/slides/a.svs"), f"the region at ({x}, {y}) does not decode")
        return np.full((4, 6, 3), 200, dtype=np.uint8)

    return read


@pytest.mark.parametrize("announced", [False, True])
def test_waiting_for_the_file_is_told_from_decoding(announced: bool) -> None:
    batches = _batches(PatchReader(_NumberedSlide(announced=announced), ReadPlan(0, 4, 4)), 20, batch_size=8, workers=2)
    _pixels(batches)
    assert batches.read_s == (1e-6 if announced else 0)
    assert batches.decode_s > 0


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("bad", [{0}, {0, 1, 2}, {99}, {4, 50, 51}])
def test_unreadable_patches_are_black_and_listed(bad: set[int], workers: int) -> None:
    batches = _batches(_failing(bad), 100, batch_size=8, workers=workers, share=0.03)
    values, _ = _pixels(batches)
    assert values == [0 if index in bad else 200 for index in range(100)]
    assert batches.unreadable == sorted(bad)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize(
    ("bad", "n", "share", "expected"),
    [
        ({5, 6}, 100, 0.01, "2 of 100 patches do not decode, more than the allowed share of 1.00%"),
        ({0, 1}, 100, 0.01, "2 of 100 patches do not decode"),
        ({3}, 10, 0.0, "1 of 10 patches do not decode"),
        ({0, 1, 2}, 3, 1.0, "not one of its 3 patches decodes"),
    ],
)
def test_too_many_unreadable(bad: set[int], n: int, share: float, expected: str, workers: int) -> None:
    with pytest.raises(UnreadableSlideError) as caught:
        _pixels(_batches(_failing(bad), n, batch_size=4, workers=workers, share=share))
    assert str(caught.value).startswith("/slides/a.svs: ")
    assert expected in str(caught.value)
    assert caught.value.path == Path("/slides/a.svs")
    assert _readers() == []


@pytest.mark.parametrize("error", [ValueError("bug"), MemoryError()])
def test_other_errors_of_the_reader_end_the_loop_and_the_threads(error: BaseException) -> None:
    def read(x: int, y: int) -> RGBImage:
        if x == 20:
            raise error
        return _numbered(x, y)

    with pytest.raises(type(error)):
        _pixels(_batches(read, 70, batch_size=4, workers=3))
    assert _readers() == []


def test_interrupt_ends_the_threads() -> None:
    reads: list[int] = []

    def read(x: int, y: int) -> RGBImage:
        reads.append(x)
        return _numbered(x, y)

    with pytest.raises(KeyboardInterrupt), _batches(read, 1000, batch_size=4, workers=3) as batches:
        for _ in batches:
            raise KeyboardInterrupt
    assert _readers() == []
    assert len(reads) < 30


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shape", [(5, 6, 3), (1, 1, 3)])
def test_patches_of_different_sizes(shape: tuple[int, ...], workers: int) -> None:
    def read(x: int, y: int) -> RGBImage:
        return np.zeros(shape if x == 9 else (4, 6, 3), dtype=np.uint8)

    batches = _batches(read, 20, batch_size=4, workers=workers)
    assert batches.failure() is None
    assert _pixels(batches)[1] in ([[0, 4]] if workers == 0 else [[], [0], [0, 4]])  # threads may meet it sooner
    assert isinstance(batches.failure(), SettingsError)
    assert "the patch at (9, 1) becomes" in str(batches.failure())


def test_torch_computes_on_one_core_in_the_threads_and_as_before_elsewhere() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    inside: set[int] = set()

    def read(x: int, y: int) -> RGBImage:
        inside.add(torch.get_num_threads())
        return np.zeros((4, 4, 3), dtype=np.uint8)

    try:
        with _batches(read, 40, batch_size=4, workers=2) as batches:
            iterator = iter(batches)
            next(iterator)
            inside.clear()  # the first patch is looked at in this thread
            for _ in iterator:
                assert torch.get_num_threads() == 2
        assert inside == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_patches() -> None:
    assert _pixels(_batches(_numbered, 0, batch_size=4, workers=0)) == ([], [])


class _NumberedSlide(Slide):
    """Every region says where it is; some do not decode, some are announced."""

    reader_type = "numbered"

    def __init__(self, bad: frozenset[int] = frozenset(), announced: bool = False) -> None:
        self.path = Path("/slides/a.svs")
        self.bad = bad
        self.announced = announced

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        if location[0] in self.bad:
            raise UnreadableSlideError(self.path, f"the region at {location} does not decode")
        time.sleep(0.0003 * (5 - location[0] % 5))
        return np.full((size[1], size[0], 3), location[0] % 256, dtype=np.uint8)

    def announce_regions(self, level: int, side_px: int, corners: np.ndarray) -> AnnouncedRegions | None:
        class Even:
            read_s = 1e-6

            def read(self, index: int, out: RGBImage) -> bool:
                out[:] = int(corners[index, 0]) % 256 if index % 2 == 0 else 99
                return index % 2 == 0

        return Even() if self.announced else None

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("plan", [ReadPlan(0, 4, 4), ReadPlan(0, 8, 4), ReadPlan(0, 6, 4)], ids=str)
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 2), (7, 0), (64, 1), (64, 4), (33, 3)])
def test_a_reader_gives_the_same_patches(batch_size: int, workers: int, plan: ReadPlan, announced: bool) -> None:
    reader = PatchReader(_NumberedSlide(announced=announced), plan)
    for read in (reader, reader.read):
        values, starts = _pixels(_batches(read, 150, batch_size=batch_size, workers=workers))
        assert values == list(range(150))
        assert starts == list(range(0, 150, batch_size))
    assert _readers() == []


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("bad", [{0}, {0, 1, 2}, {99}, {4, 50, 51}])
@pytest.mark.parametrize("read_px", [4, 8])
def test_unreadable_patches_of_a_reader(bad: set[int], workers: int, read_px: int) -> None:
    reader = PatchReader(_NumberedSlide(frozenset(bad)), ReadPlan(0, read_px, 4))
    batches = _batches(reader, 100, batch_size=8, workers=workers, share=0.03)
    values, _ = _pixels(batches)
    assert values == [0 if index in bad else index for index in range(100)]
    assert batches.unreadable == sorted(bad)
    assert batches.decode_s > 0


def test_a_slide_of_which_nothing_decodes() -> None:
    reader = PatchReader(_NumberedSlide(frozenset(range(20))), ReadPlan(0, 4, 4))
    with pytest.raises(UnreadableSlideError, match="not one of its 20 patches decodes"):
        _pixels(_batches(reader, 20, batch_size=4, workers=2, share=1.0))


def test_read_ahead_of_a_reader_is_bounded() -> None:
    slide = _NumberedSlide()
    begun: set[int] = set()
    real = slide.read_region
    slide.read_region = lambda location, level, size: begun.add(location[0]) or real(location, level, size)  # type: ignore
    with _batches(PatchReader(slide, ReadPlan(0, 4, 4)), 1000, batch_size=10, workers=2) as batches:
        next(iter(batches))
        time.sleep(0.1)
        assert max(begun) < 20


def test_a_reader_of_a_class_of_its_own_is_asked_as_it_wishes() -> None:
    class Inverted(PatchReader):
        def read(self, x: int, y: int) -> RGBImage:
            return 255 - super().read(x, y)

    reader = Inverted(_NumberedSlide(announced=True), ReadPlan(0, 4, 4))
    values, _ = _pixels(_batches(reader.read, 20, batch_size=6, workers=2))
    assert values == [255 - index for index in range(20)]
