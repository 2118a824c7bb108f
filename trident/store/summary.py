"""`summary.md`: one section a run, appended, for people."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trident.store.atomic import store_error
from trident.store.guards import wait_for_flock
from trident.store.redact import plain, redact_text
from trident.store.timings import describe

TITLE = "# Trident runs"
MAX_ERRORS = 20
_MAX_MESSAGE = 300
_ORDER = ("completed", "skipped", "error", "running", "not_started")
_GROUPS = {"patch_features": "Patch features", "slide_features": "Slide features"}


@dataclass(frozen=True)
class RunSection:
    """What is told about one run.

    Attributes:
        run_id: names the manifest in `runs/`.
        tool: which command ran.
        status: `completed` or `error`.
        started_at: ISO 8601.
        finished_at: ISO 8601.
        slides_with_state: number of slides that have a state file.
        args: the run's options; secrets are dropped.
        stages: task key (`coords`, `patch_features:uni_v1`, …) -> status -> number of slides.
        errors: (slide file name, message), one a failed slide.
        error: what ended the whole run, if something did.
        timings: task key -> seconds by phase, over the slides that this run made.
    """

    run_id: str
    tool: str
    status: str
    started_at: str
    finished_at: str
    slides_with_state: int = 0
    args: Mapping[str, object] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    errors: Sequence[tuple[str, str]] = ()
    error: str | None = None
    timings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def append_summary(path: Path, section: RunSection) -> None:
    """Append one run to the summary; the first one puts the title above itself.

    Runs that end together append one after the other.

    Raises:
        StoreError: the file cannot be written; it is then as it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise store_error(path, error) from error
    try:
        wait_for_flock(handle, path)
        _append(handle, render_section(section).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise store_error(path, error) from error
    finally:
        os.close(handle)


def render_section(section: RunSection) -> str:
    """The Markdown of one run's section."""
    lines = [
        f"## {section.started_at} {_text(section.tool)}: {_text(section.status)}",
        "",
        f"- run: {_code(section.run_id)}",
        f"- finished: {section.finished_at}",
        f"- slides with state: {section.slides_with_state}",
    ]
    if section.error:
        lines.append(f"- ended by: {_text(section.error)}")
    lines += ["", "### Arguments", "", *_fenced(json.dumps(plain(section.args), indent=2, ensure_ascii=False))]
    lines += ["", "### Stages", ""]
    single = [stage for stage in section.stages if stage.partition(":")[0] not in _GROUPS]
    lines += [f"- {_text(stage)}: {_counts(section.stages[stage])}" for stage in single] or ["- none"]
    for kind, heading in _GROUPS.items():
        encoders = {stage.partition(":")[2]: counts for stage, counts in section.stages.items() if _is(stage, kind)}
        if encoders:
            lines += ["", f"### {heading}", ""]
            lines += [f"- {_code(encoder)}: {_counts(counts)}" for encoder, counts in encoders.items()]
    if section.timings:
        lines += ["", "### Time", ""]
        lines += [f"- {_code(stage)}: {_time(seconds)}" for stage, seconds in section.timings.items()]
    if section.errors:
        lines += ["", f"### Errors ({len(section.errors)})", ""]
        lines += [f"- {_code(slide)}: {_text(message)}" for slide, message in section.errors[:MAX_ERRORS]]
        if len(section.errors) > MAX_ERRORS:
            lines.append(f"- and {len(section.errors) - MAX_ERRORS} more; see the logs and `wsi_states/`")
    return "\n".join(lines) + "\n"


def _append(handle: int, section: bytes) -> None:
    before = os.fstat(handle).st_size
    head = f"{TITLE}\n\n".encode() if before == 0 else b"\n"
    if before and os.pread(handle, 1, before - 1) != b"\n":
        head = b"\n\n"  # somebody's editor left the last line open
    data = memoryview(head + section)
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, before)
        raise


def _is(stage: str, kind: str) -> bool:
    return stage.partition(":")[0] == kind


def _counts(counts: Mapping[str, int]) -> str:
    known = [status for status in _ORDER if counts.get(status)]
    others = [status for status in counts if status not in _ORDER and counts[status]]
    return ", ".join(f"{status}: {counts[status]}" for status in known + others) or "none"


def _time(seconds: Mapping[str, float]) -> str:
    parts = [f"{seconds['total']:.1f} s"] if "total" in seconds else []
    detail = describe(seconds)
    return "; ".join(parts + ([detail] if detail else [])) or "not known"


def _text(value: str) -> str:
    """One line of text in which nothing is taken for Markdown or HTML."""
    line = " ".join(redact_text(value).split())
    if len(line) > _MAX_MESSAGE:
        line = line[: _MAX_MESSAGE - 1] + "…"
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", line)


def _code(value: str) -> str:
    """A code span, fenced by more backticks than the value has in a row."""
    line = " ".join(value.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _fenced(text: str) -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}json", text, fence]
