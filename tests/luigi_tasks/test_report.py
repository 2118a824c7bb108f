"""What a run tells people, from made-up outcomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from luigi_tasks.cohort import Outcome
from luigi_tasks.report import closing_line, failure_line, is_valid_output, plan_table
from trident.job import Job, create_job
from trident.settings import load_settings
from trident.stages.base import Condition, Status

pytestmark = pytest.mark.usefixtures("clean_settings")
SEG, COORDS = "segmentation", "coords"


@pytest.fixture
def make_job(tmp_path: Path, wsis: Path) -> Callable[..., Job]:
    def make(**options: Any) -> Job:
        return create_job(load_settings(job_dir=tmp_path / "job", wsi_dir=wsis, segmenter="otsu", **options))

    return make


@pytest.mark.parametrize(
    ("condition", "action"),
    [
        (Condition.DONE, "skip"),
        (Condition.MISSING, "run"),
        (Condition.STALE, "run"),
        (Condition.OVERWRITE, "run"),
        (Condition.CONFLICT, "stop"),
        (Condition.BLOCKED, "stop"),
    ],
)
def test_the_plan_has_an_action_for_every_condition(
    make_job: Callable[..., Job], condition: Condition, action: str
) -> None:
    lines = plan_table(make_job(), {("a", SEG): Status(condition, "a reason")}).splitlines()
    assert lines[1] == f"a.svs\tsegmentation\t{action}\ta reason"
    assert f"1 to {action}" in lines[2]


def test_the_plan_says_that_a_done_stage_may_follow_a_redone_one(make_job: Callable[..., Job]) -> None:
    statuses = {
        ("a", SEG): Status(Condition.STALE, "changed"),
        ("a", COORDS): Status(Condition.DONE, "same"),
        ("b", SEG): Status(Condition.DONE, "same"),
        ("b", COORDS): Status(Condition.DONE, "same"),
    }
    lines = plan_table(make_job(task="coords"), statuses).splitlines()
    assert lines[2].endswith("same; made anew if segmentation turns out different")
    assert lines[4].endswith("\tsame")


@pytest.mark.parametrize(
    ("outcome", "options", "failure", "closing"),
    [
        (Outcome(skipped={("a", SEG), ("b", SEG)}), {}, None, "nothing to do: all 2 stages of 2 slides are done"),
        (Outcome(completed={("a", SEG)}, skipped={("b", SEG)}), {}, None, "1 stages made, 1 were done ("),
        (
            Outcome(failed={("a", SEG): "broken"}, not_run={("b", SEG): "not made yet"}),
            {},
            "1 of 2 slides failed (first: broken); the run stopped there",
            "0 stages made, 0 were done, 1 failed, 1 not run",
        ),
        (
            Outcome(failed={("a", SEG): "broken"}, completed={("b", SEG)}),
            {"skip_errors": True},
            "1 of 2 slides failed (first: broken)",
            "1 stages made, 0 were done, 1 failed (",
        ),
        (
            Outcome(not_run={("a", SEG): "locked"}),
            {},
            "1 stages were not run (first: a, segmentation: locked)",
            "1 not run",
        ),
    ],
)
def test_the_last_lines(
    make_job: Callable[..., Job], outcome: Outcome, options: dict[str, Any], failure: str | None, closing: str
) -> None:
    job = make_job(**options)
    found = failure_line(job, outcome)
    assert (found or "").startswith(failure or "")
    assert (found is None) == (failure is None)
    assert ("--skip_errors" in (found or "")) == bool(outcome.failed and not options)
    assert closing in closing_line(job, outcome)


def test_what_counts_as_a_valid_output_beside_a_lock(tmp_path: Path) -> None:
    good = tmp_path / "good.h5"
    with h5py.File(good, "w") as file:
        file["coords"] = [[0, 0]]
    cut = tmp_path / "cut.h5"
    cut.write_bytes(good.read_bytes()[:100])
    outline = tmp_path / "a.geojson"
    outline.write_text('{"type": "FeatureCollection", "features": []}')
    broken = tmp_path / "b.geojson"
    broken.write_text("{")
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"x")
    valid = {path: is_valid_output(path) for path in (good, cut, outline, broken, picture, tmp_path / "none.jpg")}
    assert [path for path, value in valid.items() if value] == [good, outline, picture]
