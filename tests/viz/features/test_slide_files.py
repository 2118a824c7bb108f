"""Where slides are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trident.errors import DiscoveryError, SlideError, StoreError, UnreadableSlideError
from trident.store.layout import JobLayout
from trident.store.states import SlideInfo, SlideStateFile
from trident.viz.features.slide_files import SlideFiles

Draw = Callable[..., Path]


def _note(job: Path, path: Path, name: str) -> Path:
    return SlideStateFile.load_or_new(JobLayout(job, "."), SlideInfo.of(path, name)).path


@pytest.mark.parametrize("name", ["a", "a__b", "Ünï <b>", "n" * 250, "two\nlines", "no\udcffutf8", "*"])
def test_as_the_state_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.svs"
    _note(tmp_path, path, name)
    _note(tmp_path, tmp_path / "other.svs", f"{name[:240]}x")
    assert SlideFiles(tmp_path).path(name) == path


def test_the_newest_state_counts(tmp_path: Path) -> None:
    for folder, updated in (("one", "2026-02-01"), ("two", "2026-03-01"), ("three", "2026-01-01")):
        state = _note(tmp_path, tmp_path / folder / "a.svs", "a")
        state.write_text(json.dumps(json.loads(state.read_text()) | {"updated_at": updated}))
    assert SlideFiles(tmp_path).path("a") == tmp_path / "two" / "a.svs"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"slide": 3}', '{"slide": {"name": "a", "abs_path": 7}}'])
def test_damaged_states_say_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "wsi_states").mkdir()
    (tmp_path / "wsi_states" / "a__0123456789ab.json").write_text(content)
    assert SlideFiles(tmp_path).path("a") is None
    with pytest.raises(StoreError, match="its file is not known here"):
        SlideFiles(tmp_path).open("a")


def test_opening(tmp_path: Path, drawn_slides: Draw) -> None:
    folder = drawn_slides(tmp_path / "slides", "a.svs", "deep/b.svs")
    _note(tmp_path, folder / "a.svs", "a")
    (folder / "bad.svs").write_bytes(b"no slide")
    _note(tmp_path, folder / "bad.svs", "bad")
    _note(tmp_path, folder / "gone.svs", "gone")
    slides = SlideFiles(tmp_path)
    with slides.open("a") as slide:
        assert (slide.name, slide.dimensions) == ("a", (1024, 768))
    with pytest.raises(UnreadableSlideError):
        slides.open("bad")
    with pytest.raises(SlideError, match=r"gone.svs: the slide is gone; .* --wsi_dir"):
        slides.open("gone")


def test_a_folder_that_the_user_names(tmp_path: Path, drawn_slides: Draw) -> None:
    folder = drawn_slides(tmp_path / "moved", "a.svs", "deep/b.svs")
    _note(tmp_path, tmp_path / "before" / "a.svs", "a")
    slides = SlideFiles(tmp_path, folder)
    assert (slides.path("a"), slides.path("b")) == (folder / "a.svs", folder / "deep" / "b.svs")
    assert slides.path("c") is None
    with pytest.raises(DiscoveryError):
        SlideFiles(tmp_path, tmp_path / "none").path("a")
