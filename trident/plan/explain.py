"""Why a slide stands where it stands: for each stage what made it, from what, and whether it would run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trident.errors import StoreError
from trident.job import SEGMENTATION
from trident.plan.actions import RUN, SKIP, STOP, action_of, redone_before, with_caveat
from trident.plan.trace import Trace
from trident.slides.discovery import SlideSource
from trident.stages.base import Stage, Status, without_advice
from trident.store.locks import lock_status
from trident.store.recipes import Recipe
from trident.viz.report.grids import lies_in
from trident.viz.report.stages import StageColumn
from trident.viz.report.values import listing, mapping, text

MAX_ATTEMPTS = 5

UNKNOWN = "not known"
_SLIDE_BYTES = "slide_bytes"


def explain(trace: Trace, verdicts: Mapping[tuple[str, str], Status] | None) -> dict[str, Any]:
    """Everything as plain values, JSON-ready.

    Args:
        trace: of the slide.
        verdicts: by (stage key, path of the output), where each stage of a job with the user's options stands; None
            where no options were given: then the recipes in the outputs are taken as what is wanted.
    """
    source = trace.source(recipes_of(trace))
    stages = []
    verdicts_left = dict(verdicts or {})
    for column, stage in trace.stages(source):
        verdict = verdicts_left.pop((column.task, str(stage.output)), None)
        if trace.name in column.outputs or stage.is_there() or _record(trace, column, stage) or verdict:
            stages.append(_stage(trace, column, stage, verdict, asked=verdicts is not None))
    for (key, output), verdict in verdicts_left.items():
        stages.append(_not_there(trace, key, Path(output), verdict))
    _add_caveats(stages)
    state = trace.state
    return {
        "slide": trace.name,
        "path": None if trace.path is None else str(trace.path),
        "file_exists": trace.size_bytes is not None,
        "file_bytes": trace.size_bytes,
        "job_dir": str(trace.job_dir),
        "updated_at": text(state.get("updated_at")) if state else None,
        "notes": listing(mapping(state["summary"]).get("notes")) if state else [],
        "stages": stages,
    }


def recipes_of(trace: Trace) -> list[Recipe]:
    """The recipes of the slide's outputs, those that can be read."""
    nobody = SlideSource(trace.path or Path(trace.name), trace.name, trace.name, None, 0)
    found = []
    for _, stage in trace.stages(nobody):
        recipe, _ = _read_recipe(stage)
        if recipe is not None:
            found.append(recipe)
    return found


def _read_recipe(stage: Stage) -> tuple[Recipe | None, str | None]:
    """(recipe, what is wrong with the output)."""
    try:
        return (stage.read_recipe(), None) if stage.is_there() else (None, None)
    except StoreError as error:
        return None, str(error)


def _stage(trace: Trace, column: StageColumn, stage: Stage, verdict: Status | None, *, asked: bool) -> dict[str, Any]:
    there = stage.is_there()
    recipe, damage = _read_recipe(stage)
    inputs, unreadable = _inputs(trace, stage, recipe)
    record = _record(trace, column, stage)
    again, why = _again(trace, record, there=there, recipe=recipe, damage=damage or unreadable, inputs=inputs)
    if damage is not None and stage.edited_by_hand:
        again = STOP  # as a run does: somebody's work may be in it
    if asked:
        again, why = _by_options(trace, verdict)
    if again == RUN:
        why, damage = without_advice(why), damage and without_advice(damage)
    return {
        "stage": column.task,
        "grid": column.grid,
        "output": None if column.grid is None and column.kind != SEGMENTATION else str(stage.output),
        "exists": there,
        "bytes": _bytes(stage.output),
        "damage": damage,
        "recipe": None if recipe is None else recipe.to_dict(),
        "inputs": inputs,
        "lock": _lock(stage.output),
        "record": record,
        "would": again,
        "why": why,
    }


def _not_there(trace: Trace, key: str, output: Path, verdict: Status) -> dict[str, Any]:
    """A stage that the options ask for and of which the job directory has nothing."""
    again, why = _by_options(trace, verdict)
    return {
        "stage": key,
        "grid": None if key == SEGMENTATION else _shown_grid(trace, output),
        "output": str(output),
        "exists": output.exists(),
        "bytes": _bytes(output),
        "damage": None,
        "recipe": None,
        "inputs": [],
        "lock": _lock(output),
        "record": None,
        "would": again,
        "why": why,
    }


def _shown_grid(trace: Trace, output: Path) -> str:
    folder = output.parent.parent
    return str(folder.relative_to(trace.job_dir) if folder.is_relative_to(trace.job_dir) else folder)


def _add_caveats(stages: list[dict[str, Any]]) -> None:
    """Say of what is done, in each patch grid, whether an earlier stage that would run may have it made anew."""
    for grid in {stage["grid"] for stage in stages}:
        by_key = {stage["stage"]: stage for stage in stages if stage["grid"] in (None, grid)}
        for key, earlier in redone_before({key: stage["would"] for key, stage in by_key.items()}).items():
            if by_key[key]["grid"] == grid:
                by_key[key]["why"] = with_caveat(by_key[key]["why"], earlier)


def _inputs(trace: Trace, stage: Stage, recipe: Recipe | None) -> tuple[list[dict[str, Any]], str | None]:
    """(what the output was made from, then and now; what is wrong with an input)."""
    if recipe is None:
        return [], None
    problem = None
    try:
        now = dict(stage.inputs())
    except StoreError as error:
        now, problem = {}, str(error)
    if trace.size_bytes is None:
        now.pop(_SLIDE_BYTES, None)
    return [
        {
            "input": name,
            "recorded": digest,
            "now": now.get(name),
            "matches": None if digest is None or name not in now else now[name] == digest,
        }
        for name, digest in recipe.inputs.items()
    ], problem


def _again(
    trace: Trace,
    record: Mapping[str, Any] | None,
    *,
    there: bool,
    recipe: Recipe | None,
    damage: str | None,
    inputs: list[dict[str, Any]],
) -> tuple[str, str]:
    """Whether a run with the settings of the output itself would make it again, and why."""
    gone = _gone(trace)
    if not there:
        was_made = record is not None and record["status"] in ("completed", "skipped")
        why = "its output is gone" if was_made else "not made yet"
        if record is not None and record["status"] == "error":
            why = "its last attempt failed"
        return (STOP, f"{why}, and {gone}") if gone else (RUN, why)
    if damage is not None:
        return (STOP, f"{damage}; and {gone}") if gone else (RUN, damage)
    if recipe is None:
        return SKIP, "made by another program, and accepted as it is"
    stale = [one["input"] for one in inputs if one["matches"] is False]
    if stale:
        why = f"made from another {', '.join(map(_input_name, stale))} than there is now"
        return (STOP, f"{why}, and {gone}") if gone else (RUN, why)
    lost = [one["input"] for one in inputs if one["matches"] is None and one["recorded"] is not None]
    if lost:
        return SKIP, f"made, and its {', '.join(map(_input_name, lost))} cannot be compared: gone"
    return SKIP, "made from what is there now; the same settings would not run it again"


def _by_options(trace: Trace, verdict: Status | None) -> tuple[str, str]:
    """Whether a run with the user's options would make a stage again, and why."""
    if verdict is None:
        return UNKNOWN, "not part of a run with these options"
    action = action_of(verdict)
    gone = _gone(trace)
    return (STOP, f"{verdict.why}, and {gone}") if action == RUN and gone else (action, verdict.why)


def _gone(trace: Trace) -> str | None:
    return None if trace.size_bytes is not None else f"the slide {trace.path or trace.name} is gone"


def _input_name(name: str) -> str:
    return "slide file" if name == _SLIDE_BYTES else name


def _record(trace: Trace, column: StageColumn, stage: Stage) -> dict[str, Any] | None:
    """What the slide's state says about this stage; a record of another grid's output is not this stage's."""
    if trace.state is None:
        return None
    entry = mapping(trace.state["tasks"].get(column.task))
    if not entry:
        return None
    paths = [text(mapping(one).get("path")) for one in mapping(entry.get("outputs")).values()]
    named = [path for path in paths if path]
    if column.grid is not None and named and not any(lies_in(path, column.grid) for path in named):
        return None
    attempts = [mapping(attempt) for attempt in listing(entry.get("attempts"))]
    return {
        "status": text(entry.get("status")) or "not_started",
        "message": text(entry.get("message")),
        "timings": dict(mapping(entry.get("timings"))),
        "attempts_in_all": len(attempts),
        "attempts": [
            {name: attempt.get(name) for name in ("started_at", "finished_at", "duration_s", "result", "error")}
            for attempt in attempts[-MAX_ATTEMPTS:]
        ],
    }


def _lock(output: Path) -> dict[str, Any] | None:
    try:
        holder = lock_status(output)
    except StoreError as error:
        return {"holder": str(error), "state": "unknown", "silent_s": None, "in_use": False}
    if holder is None:
        return None
    return {
        "holder": holder.describe(),
        "state": holder.state.value,
        "silent_s": round(holder.silent_s, 1),
        "in_use": holder.is_in_use,
    }


def _bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
