"""trident/lazy_slide.py: metadata and pixels of one slide, against OpenSlide itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

from trident.demo import draw_demo_slide
from trident.errors import MissingMppError
from trident.slides.base import Slide
from trident.slides.registry import open_slide
from trident.wsi import WSI, CuCIMWSI, ImageWSI, OpenSlideWSI, load_wsi

WIDTH_PX, HEIGHT_PX, MPP = 1024, 768, 0.5


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "drawn.svs"
    draw_demo_slide(path, seed=1, width_px=WIDTH_PX, height_px=HEIGHT_PX, mpp=MPP)
    return path


@pytest.fixture
def wsi(slide_path: Path) -> WSI:
    return load_wsi(slide_path)


def test_facts(wsi: WSI, slide_path: Path) -> None:
    reference = openslide.OpenSlide(slide_path)
    assert (wsi.slide_path, wsi.name, wsi.ext) == (str(slide_path), "drawn", ".svs")
    assert wsi.dimensions == wsi.get_dimensions() == (wsi.width, wsi.height) == (WIDTH_PX, HEIGHT_PX)
    assert (wsi.mpp, wsi.mag) == (MPP, 20)
    assert wsi.level_count == reference.level_count == 2
    assert wsi.level_dimensions == reference.level_dimensions
    assert wsi.level_downsamples == reference.level_downsamples
    assert wsi.properties["aperio.MPP"] == reference.properties["aperio.MPP"]


def test_opened_on_first_need_and_again_after_release(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def opened(path: str, **options: Any) -> Slide:
        slide = open_slide(path, **options)
        events.append("open")
        monkeypatch.setattr(slide, "close", lambda: events.append("close"))
        return slide

    monkeypatch.setattr("trident.lazy_slide.open_slide", opened)
    wsi = load_wsi(slide_path)
    assert events == []
    with wsi as same:
        assert same is wsi
        assert wsi.width == wsi.width == WIDTH_PX
        assert events == ["open"]
    assert events == ["open", "close"]
    assert wsi.height == HEIGHT_PX
    wsi.release()
    wsi.close()
    assert events == ["open", "close"] * 2
    load_wsi(slide_path, lazy_init=False)
    assert events == [*["open", "close"] * 2, "open"]


@pytest.mark.parametrize(
    ("reader_type", "cls"), [(None, WSI), ("openslide", OpenSlideWSI), ("cucim", CuCIMWSI), ("image", ImageWSI)]
)
def test_load_wsi_gives_the_class_of_the_reader(slide_path: Path, reader_type: str | None, cls: type[WSI]) -> None:
    wsi = load_wsi(slide_path, reader_type)
    assert type(wsi) is cls
    assert wsi.reader_type == reader_type
    assert cls(slide_path).reader_type == reader_type


def test_readers_are_used(slide_path: Path, tmp_path: Path) -> None:
    with OpenSlideWSI(slide_path, lazy_init=False) as wsi:
        assert wsi.slide.reader_type == "openslide"
    Image.new("RGB", (300, 200), (200, 100, 150)).save(tmp_path / "plain.png")
    with ImageWSI(tmp_path / "plain.png", mpp=0.25) as image:
        assert (image.dimensions, image.mpp, image.mag, image.level_count) == ((300, 200), 0.25, 40, 1)
    with pytest.raises(MissingMppError, match=r"plain\.png"):
        _ = load_wsi(tmp_path / "plain.png").mpp


@pytest.mark.parametrize(
    ("name", "expected"), [(None, "drawn"), ("case 7", "case 7"), ("case.SVS", "case"), ("a.tiff", "a.tiff")]
)
def test_name(slide_path: Path, name: str | None, expected: str) -> None:
    assert load_wsi(slide_path, name=name).name == expected


@pytest.mark.parametrize("read_as", ["pil", "numpy"])
@pytest.mark.parametrize("level", [0, 1])
def test_read_region(wsi: WSI, slide_path: Path, level: int, read_as: Any) -> None:
    location, size = (WIDTH_PX - 100, 40), (60, 30)
    expected = openslide.OpenSlide(slide_path).read_region(location, level, size).convert("RGB")
    got = wsi.read_region(location, level, size, read_as)
    assert isinstance(got, Image.Image if read_as == "pil" else np.ndarray)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


def test_thumbnail(wsi: WSI) -> None:
    thumbnail = wsi.get_thumbnail((200, 200))
    assert (thumbnail.size, thumbnail.mode) == ((200, 150), "RGB")
    whole = np.asarray(wsi.read_region((0, 0), 0, wsi.dimensions), dtype=np.float64)
    np.testing.assert_allclose(np.asarray(thumbnail, np.float64).mean((0, 1)), whole.mean((0, 1)), atol=1.5)


@pytest.mark.parametrize(
    ("downsample", "tolerance", "expected"),
    [
        (1, 0.01, (0, 1.0)),
        (2, 0.01, (0, 2.0)),
        (3.995, 0.01, (1, 1.0)),
        (3.9, 0.01, (0, 3.9)),
        (3.9, 0.2, (1, 1.0)),
        (8, 0.01, (1, 2.0)),
        (0.5, 0.01, (0, 0.5)),
    ],
)
def test_best_level(wsi: WSI, downsample: float, tolerance: float, expected: tuple[int, float]) -> None:
    assert wsi.level_downsamples == (1.0, 4.0)
    assert wsi.get_best_level_and_custom_downsample(downsample, tolerance) == expected


def test_repr_opens_nothing(tmp_path: Path) -> None:
    assert repr(OpenSlideWSI(tmp_path / "no.svs")) == f"<OpenSlideWSI {tmp_path / 'no.svs'}>"
