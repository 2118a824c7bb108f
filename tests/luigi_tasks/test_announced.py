"""What a run asks its scheduler for: each task once, and an embedding whatever happens to encoders it does not need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from luigi import scheduler

from luigi_tasks import cohort, run_cohort, tasks
from luigi_tasks.tasks import SlideTask
from trident.exit_codes import FINISHED_WITH_FAILURES, OK, STOPPED

Run = Callable[..., Any]
TWO = ("--patch_encoder", "stain-stats", "moody")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the schedulers of this process are asked for what."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> None:
        inner = getattr(scheduler.Scheduler, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("family") != "RunCohort":
                counts[f"{name} {kwargs['status']}" if name == "add_task" else name] += 1
            return inner(self, *args, **kwargs)

        monkeypatch.setattr(scheduler.Scheduler, name, call)

    for name in ("add_task", "prune", "set_task_status_message", "set_task_progress_percentage"):
        counting(name)
    return counts


def test_each_task_is_announced_once(
    run: Run, wsis: Path, job: Any, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Counter[str] = Counter()
    complete = SlideTask.complete

    def counted(task: SlideTask) -> bool:
        looks[task.task_id] += 1
        return complete(task)

    monkeypatch.setattr(SlideTask, "complete", counted)
    for module, name in ((tasks, "_REPORT_EVERY_S"), (run_cohort, "_SHOW_EVERY_S")):
        monkeypatch.setattr(module, name, float("inf"))  # told are the first stage and the end
    assert run("all").code == OK
    assert (asked["add_task PENDING"], asked["add_task DONE"]) == (2 * 4, 2 * 4)
    assert set(looks.values()) <= {1, 2}  # the second time as something that another task needs
    assert len(looks) == 2 * 4
    assert asked["prune"] == 0
    assert (asked["set_task_status_message"], asked["set_task_progress_percentage"]) == (2, 2)


def test_a_gap_in_the_middle_is_filled(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    job.tissue("a").unlink()
    job.embedding("a").unlink()
    before = job.stamps("b")
    assert run("all").code == OK
    assert all(path.is_file() for path in job.outputs("a"))
    assert job.stamps("b") == before
    assert "nothing to do" in run("all").err


def test_an_embedding_does_not_wait_for_an_encoder_that_it_does_not_need(
    run: Run, wsis: Path, job: Any, moody: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "_POLL_S", 0.01)
    blocked = job.grid / "features_moody" / "a.h5"
    blocked.mkdir(parents=True)
    done = run("all", *TWO, "--skip_errors")
    assert done.code == FINISHED_WITH_FAILURES, done.err
    assert job.features("a").is_file()
    assert job.embedding("a").is_file()
    assert job.embedding("b").is_file()
    assert "9 stages made, 0 were done, 1 failed (" in done.err
    assert job.statuses("a")["slide_features"] == "completed"
    features = {key: task["status"] for key, task in job.state("a")["tasks"].items() if key.startswith("patch_f")}
    assert features == {"patch_features:stain-stats": "completed", "patch_features:moody": "error"}
    assert len(job.state("a")["tasks"]["patch_features:moody"]["attempts"]) == 1  # not tried again in this run
    blocked.rmdir()
    again = run("all", *TWO, "--skip_errors")
    assert again.code == OK, again.err
    assert "1 stages made, 9 were done (" in again.err


def test_without_skip_errors_nothing_more_begins(run: Run, wsis: Path, job: Any, moody: Any) -> None:
    (job.grid / "features_moody" / "a.h5").mkdir(parents=True)
    assert run("all", *TWO).code == STOPPED
    assert job.features("a").is_file()
    assert not job.embedding("a").exists()


def test_an_embedding_whose_own_encoder_failed_is_not_tried(
    run: Run, wsis: Path, job: Any, moody: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "_POLL_S", 0.01)
    job.features("a").mkdir(parents=True)
    done = run("all", *TWO, "--skip_errors")
    assert done.code == FINISHED_WITH_FAILURES
    assert (job.grid / "features_moody" / "a.h5").is_file()
    assert not job.embedding("a").exists()
    assert job.embedding("b").is_file()
    assert "1 failed, 1 not run (" in done.err
