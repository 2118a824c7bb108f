"""How far a run is, and how that is shown."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from luigi_tasks.display import picture
from luigi_tasks.followers import followed, followers
from luigi_tasks.progress import RunProgress, duration
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION
from trident.stages.base import StageResult

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_slides_stages_rate_and_time_left(clock: Clock) -> None:
    progress = RunProgress({"a": 2, "b": 2}, clock)
    assert progress.snapshot().eta_s is None
    progress.begin("a", COORDS, "cpu0")
    clock.now += 10
    progress.end("a", COORDS, StageResult("done"))
    progress.begin("a", PATCH_FEATURES, "gpu0")
    progress.advance("a", PATCH_FEATURES, 100, 400)
    now = progress.snapshot()
    assert (now.slides_done, now.slides_total, now.stages_done, now.stages_total) == (0, 2, 1, 4)
    assert now.eta_s == pytest.approx(30)  # one of four took 10 s
    assert now.patches_per_s == pytest.approx(10)
    assert [(work.lane, work.slide, work.done, work.total) for work in now.work] == [("gpu0", "a", 100, 400)]
    clock.now += 70
    progress.advance("a", PATCH_FEATURES, 400, 400)
    assert progress.snapshot().patches_per_s == pytest.approx(300 / 60)  # the last minute's alone
    timings = {"encode": 6.0, "wait": 3.0, "write": 1.0, "read": 50.0}
    progress.end("a", PATCH_FEATURES, StageResult("done", timings=timings))
    now = progress.snapshot()
    assert (now.slides_done, now.stages_done, now.work) == (1, 2, ())
    assert now.busy_share == pytest.approx(0.6)
    assert now.line() == "1 of 2 slides, 2 stages done, 5 patches/s, encoder busy 60%, 80 s left"


def test_a_failed_stage_takes_the_slides_later_ones_with_it(clock: Clock) -> None:
    progress = RunProgress({"a": 3, "b": 1}, clock)
    progress.begin("a", SEGMENTATION, "cpu0")
    progress.end("a", SEGMENTATION, None)
    now = progress.snapshot()
    assert (now.slides_done, now.stages_failed, now.work) == (1, 1, ())
    progress.end("b", SEGMENTATION, StageResult("done"))
    assert progress.snapshot().eta_s is None
    assert "1 failed" in progress.snapshot().line()


def test_who_follows_is_known_while_the_block_lasts(clock: Clock) -> None:
    progress = RunProgress({}, clock)
    with followed(progress):
        assert followers() == (progress,)
    assert followers() == ()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_picture_names_each_devices_slide_as_it_is(clock: Clock) -> None:
    progress = RunProgress({"a": 2, "[bold]b[/]": 1}, clock)
    progress.begin("a", PATCH_FEATURES, "gpu0")
    progress.advance("a", PATCH_FEATURES, 64, 128)
    progress.begin("[bold]b[/]", SEGMENTATION, "cpu")
    out = io.StringIO()
    Console(file=out, width=80).print(picture(progress.snapshot()))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["gpu0", "a", "patch", "features", "64", "of", "128"] in lines
    assert ["cpu", "[bold]b[/]", "segmentation"] in lines


def _options(tmp_path: Path, slides: Path) -> list[str]:
    return [
        *("--task", "coords", "--wsi_dir", str(slides), "--job_dir", str(tmp_path / "job"), "--gpus", "-1"),
        *("--patch_size", "128"),
    ]


def test_a_terminal_shows_a_live_display_and_the_log_above_it(
    tmp_path: Path, drawn_slides: Callable[..., Path]
) -> None:
    slides = drawn_slides(tmp_path / "wsis", "a.svs")
    segment = [*_options(tmp_path, slides), "--task", "seg", "--segmenter", "otsu"]
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIDENT_")}
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "run_batch_of_slides.py"), *segment],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    assert run.wait() == 0
    text = shown.decode()
    assert "of 1 slides" in text, text
    assert "a: segmentation:" in text
    assert "\x1b[2K" in text  # lines are drawn anew


def test_json_lines_and_quiet(
    run_program: Callable[..., Any], tmp_path: Path, drawn_slides: Callable[..., Path]
) -> None:
    slides = drawn_slides(tmp_path / "wsis", "a.svs")
    done = run_program("batch", *_options(tmp_path, slides), "--log_format", "json")
    records = [json.loads(line) for line in done.err.splitlines()]
    assert done.code == 3  # coordinates need tissue first
    assert {record["level"] for record in records} == {"INFO", "ERROR"}
    assert all(record.keys() >= {"time", "level", "logger", "message"} for record in records)
    segment = [*_options(tmp_path, slides), "--task", "seg", "--segmenter", "otsu"]
    assert (tmp_path / "job").is_dir()
    quiet = run_program("batch", *segment, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
