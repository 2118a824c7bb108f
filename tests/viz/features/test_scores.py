"""Scores from a CSV."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from trident.errors import SettingsError
from trident.viz.features.scores import read_scores

CORNERS = np.array([[0, 0], [128, 0], [256, 0]])


def _csv(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "scores.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "scores", "places"),
    [
        ("x,y,score\n256,0,2\n0,0,1.5\n", [2, 1.5], [[256, 0], [0, 0]]),
        ("\ufeffscore, y ,x,other\n-1e3,0.0,128.0,text\n", [-1000], [[128, 0]]),
        ("slide,x,y,score\nb,999,999,1\na,0,0,3\n\n", [3], [[0, 0]]),
        ("x,y,score\n0,0,\n128,0,nan\n256,0,1\n0,0,inf\n", [1], [[256, 0]]),
    ],
    ids=["any order", "byte order mark and blanks", "other slides", "blank scores"],
)
def test_scores(tmp_path: Path, content: str, scores: list[float], places: list[list[int]]) -> None:
    found, corners = read_scores(_csv(tmp_path, content), "score", "a", CORNERS)
    assert (found.tolist(), corners.tolist()) == (scores, places)


def test_patches_without_a_score_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trident"):
        read_scores(_csv(tmp_path, "x,y,s\n0,0,\n128,0,nan\n256,0,1\n"), "s", "a", CORNERS)
    assert f"{len(CORNERS) - 1} of {len(CORNERS)} patches of a have no score" in caplog.text


def test_patches_that_a_table_leaves_out_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trident"):
        read_scores(_csv(tmp_path, "x,y,s\n0,0,1\n0,0,2\n"), "s", "a", CORNERS)
        assert f"{len(CORNERS) - 1} of {len(CORNERS)} patches" in caplog.text
        caplog.clear()
        read_scores(_csv(tmp_path, "x,y,s\n" + "".join(f"{x},{y},1\n" for x, y in CORNERS)), "s", "a", CORNERS)
        assert caplog.text == ""


def test_a_slide_without_patches_needs_no_scores(tmp_path: Path) -> None:
    found, corners = read_scores(_csv(tmp_path, "x,y,s\n"), "s", "a", CORNERS[:0])
    assert (found.shape, corners.shape) == ((0,), (0, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column x, y, score (it is empty)"),
        (b"x,y,value\n", "no column score (its columns are x, y, value)"),
        (b"x,y,score\n", "no scores of slide a in column score"),
        (b"slide,x,y,score\nb,0,0,1\n", "no scores of slide a"),
        (b"x,y,score\n0,0,high\n", "line 2: could not convert"),
        (b"x,y,score\n0\n", "line 2: could not convert"),
        (b"x,y,score\n0.5,0,1\n", "line 2: x 0.5 and y 0 are not whole"),
        (b"x,y,score\ninf,0,1\n", "line 2: cannot convert"),
        (b"x,y,score\n128,1,1\n", "line 2: slide a has no patch at x 128, y 1"),
        (b"x,y,score\n0,0,\xff\n", "not a UTF-8 CSV file"),
        (b"x,y,score\n0,0," + b"1" * 200_000 + b"\n", "not a UTF-8 CSV file (field larger"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    path = _csv(tmp_path, content)
    with pytest.raises(SettingsError) as caught:
        read_scores(path, "score", "a", CORNERS)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SettingsError, match="these scores cannot be read"):
            read_scores(path, "score", "a", CORNERS)
