"""A stage gets its slide, whatever is the matter with the cache."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trident.errors import MissingMppError, StoreError, UnreadableSlideError
from trident.slides.registry import open_slide
from trident.staging.cache import SlideCache
from trident.staging.folder import cache_root
from trident.staging.opening import open_staged, staged


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


def test_without_a_cache_the_slide_itself_is_read(slides: list[Path]) -> None:
    with staged(slides[0], None) as path:
        assert path == slides[0]


def test_with_one_its_copy_is_read(cache: SlideCache, slides: list[Path]) -> None:
    with staged(slides[0], cache) as path:
        assert path != slides[0]
        assert path.read_bytes() == slides[0].read_bytes()
        assert not cache.evict(slides[0])
    assert cache.evict(slides[0])
    copy = cache_root(cache.folder) / "slots" / "0000" / "slide" / "x.svs"
    with staged(copy, cache) as path:  # what lies in the cache is not copied into it
        assert path == copy


def test_no_slot_is_no_reason_to_wait(
    cache: SlideCache, slides: list[Path], warnings: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(staged(slide, cache)) for slide in slides[:4]]
    assert [path in slides for path in paths] == [False, False, True, True]
    assert warnings.text == ""


Spoil = Callable[[SlideCache, list[Path], Callable[[Path], None]], None]


def no_disk(cache: SlideCache, slides: list[Path], huge: Callable[[Path], None]) -> None:
    for slide in slides:
        huge(slide)


def no_folder(cache: SlideCache, slides: list[Path], huge: Callable[[Path], None]) -> None:
    cache.folder.write_text("a file")


def foreign_folder(cache: SlideCache, slides: list[Path], huge: Callable[[Path], None]) -> None:
    cache_root(cache.folder).mkdir(parents=True)
    (cache_root(cache.folder) / "mine").touch()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(no_disk, "the disk is full"), (no_folder, "it cannot be used"), (foreign_folder, "was not made as a cache")],
)
def test_a_useless_cache_is_mentioned_once(
    cache: SlideCache,
    slides: list[Path],
    warnings: pytest.LogCaptureFixture,
    huge: Callable[[Path], None],
    spoil: Spoil,
    said: str,
) -> None:
    spoil(cache, slides, huge)
    for slide in slides:
        with staged(slide, cache) as path:
            assert path == slide
    assert len(warnings.records) == 1
    assert said in warnings.text


def test_a_missing_slide_is_left_to_its_reader(cache: SlideCache, tmp_path: Path) -> None:
    for name in ("absent.svs", "absent.dcm", "absent.vms", "absent.ome.zarr"):
        with staged(tmp_path / name, cache) as path:
            assert path == tmp_path / name


@pytest.mark.parametrize("kind", [UnreadableSlideError, MissingMppError])
def test_an_error_names_the_slide_and_not_its_copy(cache: SlideCache, slides: list[Path], kind: type) -> None:
    with pytest.raises(kind) as caught, staged(slides[0], cache) as path:
        raise kind(path, "it is: odd")
    assert str(caught.value) == f"{slides[0]}: it is: odd"
    assert caught.value.path == slides[0]
    assert cache.evict(slides[0])


@pytest.mark.parametrize("error", [UnreadableSlideError("/other.svs", "odd"), StoreError("x"), KeyboardInterrupt()])
def test_other_errors_stay_as_they_are(cache: SlideCache, slides: list[Path], error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, staged(slides[0], cache):
        raise error
    assert caught.value is error
    assert cache.evict(slides[0])


def test_a_slide_is_opened_from_its_copy(
    cache: SlideCache, tmp_path: Path, drawn_slides: object, caplog: pytest.LogCaptureFixture
) -> None:
    slide = drawn_slides(tmp_path / "slow", "a.svs") / "a.svs"  # type: ignore[operator]
    with open_slide(slide) as direct, open_staged(slide, cache, open_slide) as opened:
        assert opened.path != slide
        assert (opened.name, opened.dimensions, opened.mpp) == (direct.name, direct.dimensions, direct.mpp)
        assert (opened.read_region((64, 64), 0, (99, 50)) == direct.read_region((64, 64), 0, (99, 50))).all()
    with pytest.raises(UnreadableSlideError, match="closed"):
        opened.read_region((0, 0), 0, (1, 1))


def test_a_copy_that_does_not_open_costs_nothing(cache: SlideCache, slides: list[Path]) -> None:
    opened_at = []

    @contextlib.contextmanager
    def reader(path: Path) -> Iterator[Path]:
        yield path

    def open_at(path: Path) -> contextlib.AbstractContextManager[Path]:
        opened_at.append(path)
        if path != slides[0]:  # a format whose companions the cache does not know
            raise UnreadableSlideError(path, "a companion is missing")
        return reader(path)

    with open_staged(slides[0], cache, open_at) as opened:
        assert opened == slides[0]
    assert len(opened_at) == 2


def test_a_damaged_slide_is_reported_under_its_name(cache: SlideCache, tmp_path: Path, shared_slides: Path) -> None:
    slide = Path(shutil.copy(shared_slides / "unopenable.tiff", tmp_path))
    messages = []
    for chosen in (None, cache):
        with pytest.raises(UnreadableSlideError) as caught, open_staged(slide, chosen, open_slide):
            pass
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{slide}: ")
