"""What a run tells people: the plan of a dry run, the closing line, and the section of `summary.md`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from luigi_tasks.cohort import Outcome, StageId
from trident.errors import StoreError
from trident.job import Job
from trident.plan.actions import RUN, SKIP, STOP, action_of, redone_before, with_caveat
from trident.stages.base import Status
from trident.store.processes import utc_now
from trident.store.runs import RunManifest
from trident.store.summary import RunSection, append_summary
from trident.store.timings import summed


def plan_table(job: Job, statuses: dict[StageId, Status]) -> str:
    """One line per slide and stage, tab-separated: slide, stage, skip/run/stop, why."""
    lines = ["slide\tstage\taction\twhy"]
    actions: dict[str, dict[str, str]] = {}
    for (slide, key), status in statuses.items():
        actions.setdefault(slide, {})[key] = action_of(status)
    redone = {slide: redone_before(by_key) for slide, by_key in actions.items()}
    for (slide, key), status in statuses.items():
        earlier = redone[slide].get(key)
        why = with_caveat(status.why, earlier) if earlier else status.why
        lines.append(f"{job.slides[slide].rel_path}\t{key}\t{actions[slide][key]}\t{why}")
    counts = Counter(action for by_key in actions.values() for action in by_key.values())
    lines.append(f"# {len(job.slides)} slides: " + ", ".join(f"{counts[name]} to {name}" for name in (RUN, SKIP, STOP)))
    return "\n".join(lines) + "\n"


def failure_line(job: Job, outcome: Outcome) -> str | None:
    """What went wrong, in one line; None where nothing did."""
    if not outcome.failed and not outcome.not_run:
        return None
    failed = outcome.failed_slides
    if failed:
        first = next(iter(outcome.failed.values()))
        line = f"{len(failed)} of {len(job.slides)} slides failed (first: {first})"
        if not job.settings.skip_errors:
            line += "; the run stopped there: mend it, or go on past failures with --skip_errors"
        return line
    slide, key = next(iter(outcome.not_run))
    return f"{len(outcome.not_run)} stages were not run (first: {slide}, {key}: {outcome.not_run[slide, key]})"


def closing_line(job: Job, outcome: Outcome) -> str:
    """The last line of a run."""
    n_slides = len(job.slides)
    if not outcome.completed and not outcome.failed and not outcome.not_run:
        return (
            f"nothing to do: all {len(outcome.skipped)} stages of {n_slides} slides are done ({outcome.seconds:.1f} s)"
        )
    parts = [f"{len(outcome.completed)} stages made", f"{len(outcome.skipped)} were done"]
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    if outcome.not_run:
        parts.append(f"{len(outcome.not_run)} not run")
    return f"{n_slides} slides: {', '.join(parts)} ({outcome.seconds:.1f} s); see {job.layout.summary}"


def write_summary(job: Job, outcome: Outcome, manifest: RunManifest) -> None:
    """Append this run to `summary.md`.

    Raises:
        StoreError: it cannot be written.
    """
    stages: dict[str, dict[str, int]] = {}
    for key in job.stages:
        stages[key] = {
            "completed": _count(outcome.completed, key),
            "skipped": _count(outcome.skipped, key),
            "error": _count(outcome.failed, key),
            "not_started": _count(outcome.not_run, key),
        }
    first: dict[str, str] = {}
    for (slide, _), message in outcome.failed.items():
        first.setdefault(slide, message)
    errors = [(job.slides[slide].rel_path, message) for slide, message in first.items()]
    failure = failure_line(job, outcome)
    append_summary(
        job.layout.summary,
        RunSection(
            run_id=manifest.run_id,
            tool=manifest.tool,
            status="error" if failure else "completed",
            started_at=manifest.started_at,
            finished_at=utc_now(),
            slides_with_state=sum(1 for _ in job.layout.states_dir.glob("[!.]*.json")),
            args=manifest.args,
            stages=stages,
            errors=errors,
            error=failure,
            timings={key: summed(timings) for key, timings in outcome.timings.items()},
        ),
    )


def is_valid_output(path: Path) -> bool:
    """Whether an output beside a lock is whole, for `--clear_dead_locks`."""
    if path.suffix not in {".h5", ".geojson"}:
        return path.exists()
    from trident.store import geojson, h5

    try:
        if path.suffix == ".geojson":
            geojson.read_tissue(path)
        else:
            h5.read_header(path)
    except StoreError:
        return False
    return True


def _count(stages: set[StageId] | dict[StageId, str], key: str) -> int:
    return sum(1 for _, stage in stages if stage == key)
