"""What the state files say of stages that end well, badly, or were done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.errors import StoreError
from trident.stages.base import StageResult, run_stage
from trident.stages.tracking import describe_error, record_failure, record_result, record_start, state_of


def _state(tmp_path: Path) -> dict[str, Any]:
    (path,) = (tmp_path / "job/wsi_states").glob("*.json")
    state: dict[str, Any] = json.loads(path.read_text())
    return state


def test_a_stage_that_ends_well(make_stage: Callable[..., Any], tmp_path: Path) -> None:
    stage = make_stage("patch_features")
    for kind in ("segmentation", "coords"):
        run_stage(make_stage(kind))
    run_stage(stage, on_start=lambda: record_start(stage), on_end=lambda result: record_result(stage, result))
    state = _state(tmp_path)
    task = state["tasks"]["patch_features:text"]
    assert (task["status"], task["message"]) == ("completed", "8 letters")
    (attempt,) = task["attempts"]
    assert attempt["result"] == "completed"
    assert attempt["duration_s"] >= 0
    assert task["outputs"]["text"] == {
        "path": str(stage.output),
        "exists": True,
        "bytes": stage.output.stat().st_size,
    }
    assert state["resume"]["last_status"] == "completed"
    assert (state["slide"]["name"], state["slide"]["ext"]) == ("ab", ".svs")


def test_what_opening_the_slide_told_is_noted(make_stage: Callable[..., Any], tmp_path: Path) -> None:
    stage = make_stage("segmentation")
    meta = {"dimensions": (30, 20), "mpp": 0.25, "mag": 40, "level_count": 1}
    record_result(stage, StageResult("done", meta=meta, reader_type="image", notes=["a note"]))
    state = _state(tmp_path)
    assert state["meta"] == {**meta, "dimensions": [30, 20]}
    assert state["slide"]["reader_type"] == "image"
    assert state["summary"] == {"notes": ["a note"]}


def test_a_failure_is_in_the_state_and_in_the_log(make_stage: Callable[..., Any], tmp_path: Path) -> None:
    stage = make_stage("coords")
    record_start(stage)
    record_failure(stage, StoreError("a line\nand another"))
    task = _state(tmp_path)["tasks"]["coords"]
    assert (task["status"], task["message"]) == ("error", "a line and another")
    assert [attempt["error"] for attempt in task["attempts"]] == ["a line and another"]
    assert (tmp_path / "job/grid/_logs_coords.txt").read_text() == "ab.svs: ERROR a line and another\n"


def test_a_second_attempt_after_a_crash_closes_the_first(make_stage: Callable[..., Any], tmp_path: Path) -> None:
    stage = make_stage("segmentation")
    record_start(stage)
    record_start(stage)
    record_result(stage, StageResult("done"))
    attempts = _state(tmp_path)["tasks"]["segmentation"]["attempts"]
    assert [(attempt["result"], attempt["error"]) for attempt in attempts] == [
        ("error", "interrupted"),
        ("completed", None),
    ]


def test_a_skipped_stage_counts_no_attempt(make_stage: Callable[..., Any], tmp_path: Path) -> None:
    stage = make_stage("segmentation")
    record_result(stage, StageResult("exists, made by another program", skipped=True))
    task = _state(tmp_path)["tasks"]["segmentation"]
    assert (task["status"], task["reason"], task["attempts"]) == ("skipped", "exists, made by another program", [])


def test_looking_at_a_state_writes_nothing(make_stage: Callable[..., Any], tmp_path: Path) -> None:
    assert state_of(make_stage("segmentation")).read()["tasks"] == {}
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (StoreError("a.h5:  broken\n mend it"), "a.h5: broken mend it"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "interrupted"),
    ],
)
def test_an_error_is_described_in_one_line(error: BaseException, says: str) -> None:
    assert describe_error(error) == says
