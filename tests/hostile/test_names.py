"""Slides with names that somebody made to break something, through the whole pipeline."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.store.summary import RunSection, render_section

NAMES = [
    b"new\nline.svs",
    b"quote'and\".svs",
    b"-dash.svs",
    b"--help.svs",
    b"a..dots..svs",
    b"\xff\xfe.svs",
    b"<img src=x onerror=alert(1)>.svs",
    b"back`tick``s.svs",
    b"$(touch pwned).svs",
    b"%s%n{0}.svs",
    b"\x1b[31mred.svs",
]
TOO_LONG = b"y" * 251 + b".svs"


@pytest.fixture(scope="module")
def hostile_run(
    run_program: Callable[..., Any], drawn_slides: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """Job directory and end of a run over slides of such names, and one whose outputs' names are too long."""
    folder = tmp_path_factory.mktemp("names")
    sound = drawn_slides(folder / "sound", "a.svs") / "a.svs"
    wsis = folder / "wsis"
    wsis.mkdir()
    for name in [*NAMES, TOO_LONG]:
        shutil.copyfile(sound, os.fsencode(wsis) + b"/" + name)
    done = run_program(
        *("batch", "--task", "all", "--wsi_dir", wsis, "--job_dir", folder / "job", "--skip_errors"),
        *("--segmenter", "otsu", "--mag", 20, "--patch_size", 256, "--gpus", "-1", "--patch_encoder", "stain-stats"),
    )
    return folder / "job", done


def test_slides_of_any_name_are_processed(hostile_run: tuple[Path, Any]) -> None:
    job, done = hostile_run
    assert done.code == 4, done.err
    assert "Traceback" not in done.err
    made = {os.fsencode(path.name) for path in job.glob("*/features_stain-stats/*.h5")}
    assert made == {name.removesuffix(b".svs") + b".h5" for name in NAMES}
    assert not list(job.parent.rglob("pwned"))
    assert {path.name for path in job.parent.iterdir()} == {"sound", "wsis", "job"}


def test_too_long_a_name_costs_one_slide_and_says_what_to_do(hostile_run: tuple[Path, Any]) -> None:
    done = hostile_run[1]
    assert "shorten the slide's file name" in done.err
    assert "1 of 12 slides failed" in done.err


def test_the_log_keeps_to_its_lines_and_commands_no_terminal(hostile_run: tuple[Path, Any]) -> None:
    lines = hostile_run[1].err.splitlines()
    assert "\x1b" not in hostile_run[1].err
    assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d [A-Z]+ ", line)] == []
    assert any("new\\nline: coords" in line for line in lines)


def test_the_summary_shows_names_as_text(hostile_run: tuple[Path, Any]) -> None:
    errors = [(os.fsdecode(name), f"{os.fsdecode(name)}: <b>broken</b>") for name in NAMES]
    text = render_section(RunSection("id", "tool", "error", "then", "now", errors=errors))
    for line in text.splitlines():
        outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line)  # what is not in a code span
        assert not re.search(r"(?<!\\)[<>]", outside), line
    assert "<img" not in re.sub(r"`[^`]*`|\\<", "", (hostile_run[0] / "summary.md").read_text(encoding="utf-8"))


def test_states_know_the_slides_by_their_true_paths(hostile_run: tuple[Path, Any]) -> None:
    states = [json.loads(path.read_text()) for path in (hostile_run[0] / "wsi_states").glob("*.json")]
    paths = {os.fsencode(Path(state["slide"]["abs_path"]).name) for state in states}
    assert paths == {*NAMES, TOO_LONG}


def test_a_link_to_nothing_and_a_folder_cost_one_slide_each(
    run_batch: Callable[..., Any], drawn_slides: Callable[..., Path], tmp_path: Path
) -> None:
    wsis = drawn_slides(tmp_path / "wsis", "a.svs")
    (wsis / "gone.svs").symlink_to(tmp_path / "nowhere")
    (wsis / "folder.svs").mkdir()
    done = run_batch(
        *("--task", "seg", "--wsi_dir", wsis, "--job_dir", tmp_path / "job", "--skip_errors"),
        *("--segmenter", "otsu", "--gpus", "-1"),
    )
    assert done.code == 4
    assert [path.name for path in (tmp_path / "job" / "contours_geojson").iterdir()] == ["a.geojson"]
