"""Writes what happens to each stage of each slide into the slide's state file."""

from __future__ import annotations

from trident.errors import TridentError, UnforeseenError
from trident.slides.discovery import SlideSource
from trident.stages.base import Stage, StageResult
from trident.store import logs
from trident.store.layout import JobLayout
from trident.store.states import SlideInfo, SlideStateFile


def state_of(stage: Stage) -> SlideStateFile:
    """The state file of the stage's slide; nothing is written yet."""
    return state_file(stage.context.layout, stage.source)


def state_file(layout: JobLayout, source: SlideSource) -> SlideStateFile:
    """The state file of a slide; nothing is written yet."""
    return SlideStateFile(layout, SlideInfo.of(source.path, source.name, source.rel_path))


def record_start(stage: Stage) -> None:
    """A stage begins; its lock is held."""
    state_of(stage).begin(stage.key)


def record_result(stage: Stage, result: StageResult) -> None:
    """A stage ended well; one that had nothing to do keeps the record of the run that did it."""
    state = state_of(stage)
    with state.together():
        if result.meta:
            state.set_meta(**result.meta, reader_type=result.reader_type)
        if result.notes:
            state.set_summary({"notes": result.notes})
        state.finish(
            stage.key,
            "skipped" if result.skipped else "completed",
            message=result.message,
            reason=result.message if result.skipped else None,
            outputs=result.outputs,
            timings=result.timings or None,
        )


def record_failure(stage: Stage, error: BaseException) -> None:
    """A stage failed. Of stages that ran together, those that are done or have their own error on record keep that."""
    message = describe_error(error)
    members = stage.members
    state = state_of(stage)
    for member in members:
        if len(members) > 1 and (member.status().done or state.status(member.key) == "error"):
            continue
        state.finish(member.key, "error", message=message, error=message)
        logs.record(stage.context.layout.stage_log(member.key), stage.source.path.name, f"ERROR {message}")


def describe_error(error: BaseException) -> str:
    """One line for people."""
    text = " ".join(str(error).split())
    if isinstance(error, (TridentError, UnforeseenError)):
        return text
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
