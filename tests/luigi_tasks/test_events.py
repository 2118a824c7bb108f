"""What is noted of a stage whose executor was killed because the run stops."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luigi_tasks import events
from luigi_tasks.jobs import resolve
from luigi_tasks.tasks import SlideTask, task_for
from trident.errors import NotStartedError, PutDownError
from trident.job import SEGMENTATION
from trident.stages.tracking import record_failure, record_start
from trident.store import atomic
from trident.store.locks import OutputLock, lock_path

pytestmark = pytest.mark.usefixtures("quiet_process")
ERROR = PutDownError("a: interrupted: executor cpu0 ended (the run is over)")
_DIES = (
    "import os, sys\nfrom pathlib import Path\nfrom trident.store import atomic\n"
    "from trident.store.locks import OutputLock\n"
    "OutputLock(Path(sys.argv[1])).__enter__()\natomic.begin(Path(sys.argv[1])).write_text('half')\nos._exit(1)"
)


@pytest.fixture
def task(tmp_path: Path, drawn_slides: Callable[..., Path]) -> SlideTask:
    """A stage whose state says that it runs."""
    wsis = drawn_slides(tmp_path / "wsis", "a.svs")
    options: dict[str, Any] = {"job_dir": tmp_path / "job", "wsi_dir": wsis, "segmenter": "otsu", "gpus": "-1"}
    task = task_for(SEGMENTATION, resolve(options), "a")
    record_start(task.stage)
    events.LEDGER.clear()
    return task


def _noted(tmp_path: Path) -> tuple[str, list[str | None]]:
    (path,) = (tmp_path / "job" / "wsi_states").glob("*.json")
    noted = json.loads(path.read_text())["tasks"]["segmentation"]
    return noted["status"], [attempt["error"] for attempt in noted["attempts"]]


def test_what_a_killed_process_left_is_put_down(
    task: SlideTask, tmp_path: Path, left_behind: Callable[[Path], list[Path]]
) -> None:
    subprocess.run([sys.executable, "-c", _DIES, str(task.stage.output)], check=False)
    assert len(left_behind(tmp_path / "job")) == 2
    events._failed(task, ERROR)
    assert _noted(tmp_path) == ("error", ["interrupted"])
    assert left_behind(tmp_path / "job") == []
    assert events.LEDGER.failures == {}  # nothing is wrong with the slide


def test_what_it_has_noted_itself_stays(task: SlideTask, tmp_path: Path) -> None:
    record_failure(task.stage, KeyboardInterrupt())
    events._failed(task, ERROR)
    assert _noted(tmp_path) == ("error", ["interrupted"])


def test_what_another_run_is_at_is_left_alone(task: SlideTask, tmp_path: Path) -> None:
    with OutputLock(task.stage.output):
        temp = atomic.begin(task.stage.output)
        temp.touch()
        events._failed(task, ERROR)
        assert _noted(tmp_path) == ("running", [None])
        assert lock_path(task.stage.output).exists()
        assert temp.exists()
        atomic.discard(temp)


def test_what_was_not_begun_is_not_touched(task: SlideTask, tmp_path: Path) -> None:
    events._failed(task, NotStartedError("the run stops: not begun"))
    assert _noted(tmp_path) == ("running", [None])
