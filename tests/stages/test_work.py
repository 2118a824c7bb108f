"""A process that ends in the middle of its work: what it was at says so, whatever the moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trident.errors import NotStartedError, StoreError
from trident.stages import work
from trident.stages.tracking import record_failure, record_result, record_start

SHORT_S = 0.3
"""So long a test lets what must not happen happen."""


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], threading.Thread]]:
    """Function (): a thread in which this process puts its work down. Its locks stay: the test goes on."""
    for module, name in ((work.locks, "release_all"), (work.atomic, "discard_all")):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr(work, "_ending", False)
    threads: list[threading.Thread] = []

    def start() -> threading.Thread:
        threads.append(threading.Thread(target=work.abandon_work))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join()


def _task(tmp_path: Path) -> dict[str, Any]:
    (path,) = (tmp_path / "job" / "wsi_states").glob("*.json")
    task: dict[str, Any] = json.loads(path.read_text())["tasks"]["segmentation"]
    return task


@pytest.mark.parametrize("moment", ["before it is noted", "after it is noted"])
def test_a_stage_that_begins_at_this_moment_is_put_down_too(
    moment: str,
    make_stage: Callable[..., Any],
    end: Callable[[], threading.Thread],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ending: list[threading.Thread] = []

    def begin(stage: Any) -> None:
        if moment == "after it is noted":
            record_start(stage)
        ending.append(end())
        ending[0].join(SHORT_S)  # it waits for us
        if moment == "before it is noted":
            record_start(stage)

    seen: list[dict[str, Any]] = []

    def look() -> None:
        ending[0].join()
        seen.append(_task(tmp_path))

    monkeypatch.setattr(work, "record_start", begin)
    stage = make_stage("segmentation")
    stage.before_produce = look
    work.run_recorded(stage)
    assert [(task["status"], task["message"]) for task in seen] == [("error", "interrupted")]
    assert len(seen[0]["attempts"]) == 1


def test_nothing_begins_any_more(
    make_stage: Callable[..., Any], end: Callable[[], threading.Thread], tmp_path: Path
) -> None:
    end().join()
    stage = make_stage("segmentation")
    with pytest.raises(NotStartedError, match="ab: segmentation: not begun"):
        work.run_recorded(stage)
    assert stage.produced == 0
    assert not (tmp_path / "job" / "wsi_states").exists()


def test_a_stage_that_is_done_stays_done(
    make_stage: Callable[..., Any],
    end: Callable[[], threading.Thread],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def finish(stage: Any, result: Any) -> None:
        record_result(stage, result)
        end().join(SHORT_S)

    monkeypatch.setattr(work, "record_result", finish)
    work.run_recorded(make_stage("segmentation"))
    end().join()
    assert (_task(tmp_path)["status"], len(_task(tmp_path)["attempts"])) == ("completed", 1)


@pytest.mark.parametrize("ends", [True, False])
def test_one_of_several_that_fails_with_the_process_keeps_that_it_was_interrupted(
    ends: bool, make_stage: Callable[..., Any], end: Callable[[], threading.Thread], tmp_path: Path
) -> None:
    stage = make_stage("segmentation")
    work._begin(stage)
    if ends:
        end().join()
    work._fail(stage, StoreError("its temporary file is gone"))
    expected = "interrupted" if ends else "its temporary file is gone"
    assert (_task(tmp_path)["status"], _task(tmp_path)["message"]) == ("error", expected)
    assert stage not in work._at_work


def test_a_failure_is_left_to_who_asked(
    make_stage: Callable[..., Any], end: Callable[[], threading.Thread], tmp_path: Path
) -> None:
    stage = make_stage("segmentation")

    def fail() -> None:
        raise StoreError("no")

    stage.before_produce = fail
    with pytest.raises(StoreError, match="no"):
        work.run_recorded(stage)
    record_failure(stage, StoreError("no"))
    end().join()
    assert _task(tmp_path)["message"] == "no"
