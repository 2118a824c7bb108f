"""Colours where the patches are, and what lies below them when a slide is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trident.errors import StoreError
from trident.store.h5_read import read_coords
from trident.store.layout import JobLayout
from trident.viz.features.overlay import Backdrop, find_backdrop
from trident.viz.features.slide_files import SlideFiles

TABLE = np.stack([np.arange(256), 255 - np.arange(256), np.zeros(256)], axis=1).astype(np.uint8)
GRID = "20x_128px_0px_overlap"


def _plain(colour: tuple[int, int, int]) -> Backdrop:
    """A slide of 400 x 200 px at half its size, with patches of 100 px."""
    return Backdrop(np.full((100, 200, 3), colour, np.uint8), (400, 200), 100)


def test_patches_are_tinted_over_grey_and_the_rest_stays() -> None:
    picture = _plain((255, 0, 0)).tinted(np.array([0.0, 1.0]), np.array([[0, 0], [300, 100]]), TABLE, 0.5)
    grey = 76  # 0.299 of red, by ITU-R 601
    np.testing.assert_allclose(picture[0:50, 0:50].reshape(-1, 3), np.tile([38, 166, 38], (2500, 1)), atol=1)
    np.testing.assert_allclose(
        picture[50:, 150:].reshape(-1, 3), np.tile([grey / 2 + 127.5, 38, 38], (2500, 1)), atol=1
    )
    assert (picture[:50, 50:] == (255, 0, 0)).all()
    assert (picture[50:, :150] == (255, 0, 0)).all()


def test_overlapping_patches_have_the_colour_of_their_mean() -> None:
    picture = _plain((0, 0, 0)).tinted(np.array([0.0, 1.0]), np.array([[0, 0], [50, 0]]), TABLE, 1.0)
    assert picture[10, [5, 35, 60], 0].tolist() == [0, 128, 255]


def test_three_values_are_red_green_and_blue() -> None:
    picture = _plain((0, 0, 0)).tinted_rgb(np.array([[1.0, 0.5, 0.0]]), np.array([[100, 100]]), 1.0)
    assert picture[75, 75].tolist() == [255, 128, 0]
    assert not picture[:50].any()


def test_no_patches() -> None:
    backdrop = _plain((9, 9, 9))
    none = np.zeros((0, 2), np.int64)
    assert (backdrop.tinted(np.zeros(0), none, TABLE, 0.5) == 9).all()
    assert (backdrop.tinted_rgb(np.zeros((0, 3)), none, 0.5) == 9).all()


@pytest.fixture
def job(tmp_path: Path, put_features: Callable[..., Path], drawn_slides: Callable[..., Path]) -> JobLayout:
    folder = drawn_slides(tmp_path / "slides", "a.svs")
    put_features(tmp_path / "job", "a", np.ones((4, 2)), slide_path=folder / "a.svs")
    return JobLayout(tmp_path / "job", GRID)


def _find(layout: JobLayout, **attributes: object) -> Backdrop:
    found = read_coords(layout.coords("a"))
    given = {key: value for key, value in {**found.attributes, **attributes}.items() if value is not None}
    return find_backdrop(SlideFiles(layout.job_dir), layout, "a", attributes=given, corners=found.coords, side_px=512)


def test_the_slide_itself(job: JobLayout, caplog: pytest.LogCaptureFixture) -> None:
    found = _find(job)
    assert (found.image.shape, found.slide_size, found.side_level0_px) == ((384, 512, 3), (1024, 768), 128)
    assert found.image.std() > 5
    assert caplog.records == []


def test_the_thumbnail_where_the_slide_is_gone(job: JobLayout, caplog: pytest.LogCaptureFixture) -> None:
    (job.job_dir.parent / "slides" / "a.svs").unlink()
    job.thumbnail("a").parent.mkdir()
    Image.new("RGB", (1000, 750), (10, 200, 10)).save(job.thumbnail("a"), quality=95)
    with caplog.at_level(logging.WARNING, "trident"):
        found = _find(job)
    assert (found.image.shape, found.slide_size, found.side_level0_px) == ((384, 512, 3), (1024, 768), 128)
    np.testing.assert_allclose(found.image[100, 100], (10, 200, 10), atol=4)
    assert "the slide is not read" in caplog.text


@pytest.mark.parametrize("thumbnail", [None, b"", b"no picture"])
def test_white_where_nothing_is_left(job: JobLayout, thumbnail: bytes | None) -> None:
    (job.job_dir.parent / "slides" / "a.svs").unlink()
    if thumbnail is not None:
        job.thumbnail("a").parent.mkdir()
        job.thumbnail("a").write_bytes(thumbnail)
    found = _find(job)
    assert (found.image == 255).all()
    assert found.image.shape == (384, 512, 3)


def test_coordinates_that_do_not_say_how_large_the_slide_is(job: JobLayout) -> None:
    (job.job_dir.parent / "slides" / "a.svs").unlink()
    assert _find(job, level0_width=None, level0_height=None).slide_size == (512, 128)
    assert _find(job, level0_width=-1, level0_height="x").slide_size == (512, 128)
    with pytest.raises(StoreError, match="lack patch_size_level0, and the slide cannot be asked"):
        _find(job, patch_size_level0=None)


def test_a_slide_of_another_size_is_not_taken(job: JobLayout, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trident"):
        assert (_find(job, level0_width=2000).image == 255).all()
    assert "1024 x 768 px" in caplog.text
