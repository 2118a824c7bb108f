from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trident.demo.svs import write_svs
from trident.errors import MissingMppError, SettingsError, UnreadableSlideError
from trident.slides.facts import LevelFacts, slide_facts
from trident.slides.metadata import MppCandidate


def test_a_drawn_slide(tmp_path: Path) -> None:
    path = tmp_path / "drawn.svs"
    noise = np.random.default_rng(1).integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    write_svs(path, noise, mpp=0.25, magnification=40)
    facts = slide_facts(path, reader_type="openslide")
    assert (facts.path, facts.name, facts.format) == (path, "drawn", "aperio")
    assert facts.size_bytes == len(path.read_bytes())
    assert (facts.reader_type, facts.reader_reason) == ("openslide", "asked for with --reader_type")
    assert facts.levels == (
        LevelFacts(1100, 700, 1.0, (256, 256), "JPEG"),
        LevelFacts(275, 175, 4.0, (256, 256), "JPEG"),
    )
    assert (facts.mpp, facts.mpp_source, facts.magnification) == (0.25, "openslide.mpp-x", 40)
    assert (facts.objective_power, facts.objective_key) == (40, "openslide.objective-power")
    assert facts.mpp_candidates[:2] == (
        MppCandidate("openslide.mpp-x", "0.25", 0.25),
        MppCandidate("aperio.MPP", "0.25", 0.25),
    )
    assert facts.associated_images == {"thumbnail": (1024, 652)}
    assert (facts.notes, facts.problems) == ((), ())


def test_contradictions_are_among_the_notes(tmp_path: Path) -> None:
    path = tmp_path / "odd.svs"
    write_svs(path, np.zeros((300, 300, 3), np.uint8), mpp=0.5, magnification=40)
    facts = slide_facts(path)
    assert [note for note in facts.notes if "objective power 40x" in note and "counts as 20x" in note]
    assert (facts.magnification, facts.problems) == (20, ())


def test_reasons_for_the_reader(write_slide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cucim")
    fast = slide_facts(write_slide("a.svs"))
    assert (fast.reader_type, fast.notes) == ("cucim", ())
    assert "JPEG or JPEG 2000" in fast.reader_reason
    deflate = slide_facts(write_slide("b.svs", codec="deflate"))
    assert deflate.reader_type == "openslide"
    assert "compression 8" in deflate.reader_reason
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "c.png")
    image = slide_facts(tmp_path / "c.png", mpp=0.5)
    assert (image.reader_type, image.reader_reason) == ("image", "the reader of .png files")
    assert (image.format, image.levels[0].compression) == ("PNG", "PNG")
    monkeypatch.setitem(sys.modules, "cucim", None)
    without = slide_facts(write_slide("d.svs"))
    assert (without.reader_type, without.reader_reason.partition(",")[0]) == ("openslide", "cuCIM")
    assert "not installed" in without.reader_reason


def test_a_file_that_cucim_was_refused_for(shared_slides: Path) -> None:
    pytest.importorskip("cucim")
    facts = slide_facts(shared_slides / "unreadable.svs")
    assert facts.reader_type == "openslide"
    assert "cuCIM was tried first" in facts.reader_reason
    assert [note for note in facts.notes if note.startswith("read with OpenSlide, not cuCIM")]
    (problem,) = facts.problems
    assert "level 0 does not decode" in problem
    assert str(shared_slides) not in problem


def test_what_is_missing_is_a_problem_with_a_remedy(shared_slides: Path) -> None:
    path = shared_slides / "TCGA-CR-7395-no-mpp.svs"
    facts = slide_facts(path)
    assert (facts.mpp, facts.mpp_source, facts.magnification, facts.objective_power) == (None, None, None, None)
    (problem,) = facts.problems
    assert problem.startswith("its resolution (µm/px) is not in its metadata")
    assert "--custom_list_of_wsis" in problem
    assert slide_facts(path, mpp=0.5).problems == ()
    (absurd,) = slide_facts(shared_slides / "boxes.tiff").problems
    assert "352.778 µm/px, coarser than 5x" in absurd


def test_a_custom_key_is_a_candidate(shared_slides: Path) -> None:
    facts = slide_facts(shared_slides / "CMU-1-Small-Region.svs", custom_mpp_keys=("aperio.AppMag",))
    assert MppCandidate("aperio.AppMag", "20", 20.0) in facts.mpp_candidates
    assert facts.mpp_source == "openslide.mpp-x"
    assert [note for note in facts.notes if "20 (aperio.AppMag)" in note]
    assert facts.associated_images == {"label": (387, 463), "macro": (1280, 431), "thumbnail": (574, 768)}


@pytest.mark.parametrize(
    ("content", "options", "error"),
    [
        (None, {}, UnreadableSlideError),
        (b"", {}, UnreadableSlideError),
        (b"not a slide at all", {}, UnreadableSlideError),
        (b"II*\0\x08\0\0\0\xff\xff", {}, UnreadableSlideError),
        (b"", {"reader_type": "magic"}, SettingsError),
        ("drawn", {"mpp": -1.0}, MissingMppError),
    ],
)
def test_what_does_not_open_is_an_error(tmp_path: Path, content: Any, options: dict[str, Any], error: type) -> None:
    path = tmp_path / "a.svs"
    if content == "drawn":
        write_svs(path, np.zeros((300, 300, 3), np.uint8), mpp=0.5, magnification=20)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        slide_facts(path, **options)
