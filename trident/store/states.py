"""`wsi_states/<slide>__<hash>.json`: what has happened to one slide, task by task.

Every change reads the file, alters it and writes it back whole, under a guard: processes that work on different tasks
of one slide lose none of each other's changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trident import __version__
from trident.errors import StoreError
from trident.store.atomic import store_error, write_json
from trident.store.guards import file_guard
from trident.store.layout import JobLayout
from trident.store.processes import utc_now
from trident.store.redact import plain, redact_text

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
STATUSES = ("not_started", "running", "completed", "skipped", "error")
INTERRUPTED = "interrupted"
"""Error of an attempt whose process ended without a word."""

MAX_ATTEMPTS = 50
"""Only the last attempts of a task are kept, or a slide that is retried for ever would grow its file for ever."""

_MAX_NAME_BYTES = 255

State = dict[str, Any]


@dataclass(frozen=True)
class SlideInfo:
    """The `slide` block of a state file.

    Attributes:
        id: name and hash of the path; the state file's name without its extension.
        name: names the slide's outputs.
        ext: extension with its dot.
        abs_path: absolute path.
        rel_path: path relative to the folder of slides.
        reader_type: the reader in use; None before the slide was opened.
    """

    id: str
    name: str
    ext: str
    abs_path: str
    rel_path: str
    reader_type: str | None = None

    @classmethod
    def of(cls, path: Path, name: str, rel_path: str | None = None, reader_type: str | None = None) -> SlideInfo:
        """Describe the slide at `path`, whose outputs are called `name`."""
        absolute = os.path.abspath(path)  # noqa: PTH100 - links stay as they are: the path is what the user gave
        file_name = os.path.basename(absolute)  # noqa: PTH119
        ext = file_name[len(name) :] if file_name.startswith(name) else Path(file_name).suffix
        return cls(f"{name}__{slide_hash(absolute)}", name, ext, absolute, rel_path or file_name, reader_type)


def slide_hash(path: str) -> str:
    """The first 12 hex digits of SHA-1 of a slide's path."""
    return hashlib.sha1(os.fsencode(path), usedforsecurity=False).hexdigest()[:12]


def state_path(layout: JobLayout, slide: SlideInfo) -> Path:
    """The state file of a slide; of a name too long for the file system only the beginning is used."""
    tail = f"__{slide_hash(slide.abs_path)}.json"
    whole = os.fsencode(slide.name)[: _MAX_NAME_BYTES - len(tail)].decode("utf-8", "ignore")  # no half letter
    name = os.fsdecode(whole.encode())  # a machine whose locale is not UTF-8 spells it in its own way
    return layout.states_dir / f"{name}{tail}"


def read_states(layout: JobLayout) -> Iterator[State]:
    """Every readable state of a job, in the order of file names; damaged ones are left out with a warning."""
    if not layout.states_dir.is_dir():
        return
    for path in sorted(layout.states_dir.glob("[!.]*.json")):
        try:
            yield _read(path)
        except _DamagedError as error:
            logger.warning("%s: this state file is damaged (%s) and is not counted", path, error)


class SlideStateFile:
    """The state file of one slide. Several may be open on one file, in several processes."""

    def __init__(self, layout: JobLayout, slide: SlideInfo) -> None:
        self.path = state_path(layout, slide)
        self.slide = slide
        # Few guard files for many slides: two slides that share one wait for each other for milliseconds.
        self._guard = layout.private_dir / "guards" / f"states-{slide_hash(slide.abs_path)[:2]}"
        self._clocks: dict[str, float] = {}
        self._gathered: list[Callable[[State], None]] | None = None

    @classmethod
    def load_or_new(cls, layout: JobLayout, slide: SlideInfo) -> SlideStateFile:
        """Open the state of a slide; the file is made where it is missing, and made anew where it is damaged.

        Raises:
            StoreError: it cannot be read or written.
        """
        states = cls(layout, slide)
        states._update(lambda state: None)
        return states

    def read(self) -> State:
        """The whole state as it is on disk now; a new one where there is none.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return _read(self.path)
        except FileNotFoundError:
            return _new_state()
        except _DamagedError as error:
            raise StoreError(f"{self.path}: this state file is damaged ({error}); delete it and run again") from error

    def status(self, task: str) -> str:
        """Where a task stands by the file; `not_started` where it does not say.

        Raises:
            StoreError: it cannot be read.
        """
        return str(self.read()["tasks"].get(task, {}).get("status", "not_started"))

    def begin(self, task: str) -> str:
        """Note that `task` begins, and give the new attempt's id.

        Call it with the task's output lock held: an attempt that is still `running` then was cut off by a crash, and is
        closed as an error.
        """
        attempt_id = secrets.token_hex(6)

        def change(state: State) -> None:
            entry = _task(state, task)
            now = utc_now()
            for attempt in entry["attempts"]:
                if attempt["finished_at"] is None:  # when it ended, and so how long it took, nobody knows
                    attempt.update(finished_at=now, result="error", error=INTERRUPTED)
            attempt = {"attempt_id": attempt_id, "started_at": now}
            entry["attempts"].append(
                {**attempt, "finished_at": None, "duration_s": None, "result": None, "error": None}
            )
            del entry["attempts"][:-MAX_ATTEMPTS]
            entry.update(status="running", reason=None, message=None)
            _set_resume(state, task, "running", None)

        self._update(change)
        self._clocks[attempt_id] = time.monotonic()
        return attempt_id

    def finish(
        self,
        task: str,
        status: str,
        *,
        message: str | None = None,
        reason: str | None = None,
        outputs: Mapping[str, Path] | None = None,
        error: str | None = None,
        attempt_id: str | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> None:
        """Note how `task` ended.

        Args:
            task: `segmentation`, `coords`, `patch_features:<encoder>` or `slide_features:<encoder>`.
            status: `completed`, `skipped` or `error`.
            message: for people.
            reason: why it was skipped, or what kind of error it was.
            outputs: name -> path; looked at now. None keeps what was noted before.
            error: the error's message.
            timings: phase -> seconds; None keeps what was noted before.
            attempt_id: as `begin` gave it; by default the attempt that is still open. Without an open one, an error or
                a completion is noted as an attempt of no duration, and a skip as none.

        Raises:
            ValueError: another status.
            StoreError: the state cannot be written.
        """
        if status not in ("completed", "skipped", "error"):
            raise ValueError(f"a task ends completed, skipped or in error, not {status!r}")
        error = None if error is None else redact_text(error)
        noted = None if outputs is None else {name: _describe_output(path) for name, path in outputs.items()}

        def change(state: State) -> None:
            entry = _task(state, task)
            attempt = _open_attempt(entry, attempt_id)
            now = utc_now()
            if attempt is None and status != "skipped":
                attempt = {"attempt_id": attempt_id or secrets.token_hex(6), "started_at": now}
                entry["attempts"].append(attempt)
                del entry["attempts"][:-MAX_ATTEMPTS]
            if attempt is not None:
                duration_s = self._duration_s(attempt)
                attempt.update(finished_at=now, duration_s=duration_s, result=status, error=error)
            entry.update(status=status, reason=reason, message=message)
            if noted is not None:
                entry["outputs"] = noted
            if timings is not None:
                entry["timings"] = dict(timings)
            _set_resume(state, task, status, error)

        self._update(change)

    def set_meta(
        self,
        *,
        dimensions: tuple[int, int] | None,
        mpp: float | None,
        mag: float | None,
        level_count: int | None,
        reader_type: str | None = None,
    ) -> None:
        """Note what opening the slide has told: (width, height) of level 0 in px, µm/px, magnification, levels."""
        size = None if dimensions is None else list(dimensions)

        def change(state: State) -> None:
            state["meta"] = plain({"dimensions": size, "mpp": mpp, "mag": mag, "level_count": level_count})
            if reader_type is not None:
                state["slide"]["reader_type"] = reader_type

        self._update(change)

    def set_summary(self, values: Mapping[str, object]) -> None:
        """Add to the slide's `summary` (numbers of patches, the reader's notes and the like)."""
        self._update(lambda state: state["summary"].update(plain(values)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the changes of a block at once, at its end; each write waits for the disk.

        Raises:
            StoreError: the state cannot be written.
        """
        gathered: list[Callable[[State], None]] = []
        self._gathered = gathered
        try:
            yield
        finally:
            self._gathered = None

        def change(state: State) -> None:
            for one in gathered:
                one(state)

        if gathered:
            self._update(change)

    def _update(self, change: Callable[[State], None]) -> None:
        if self._gathered is not None:
            self._gathered.append(change)
            return
        with file_guard(self._guard):
            try:
                state = _read(self.path)
            except FileNotFoundError:
                state = _new_state()
            except _DamagedError as error:
                self._put_aside(error)
                state = _new_state()
            # What this version knows about the slide is newer, except the reader, which is learnt on opening.
            reader_type = self.slide.reader_type or state["slide"].get("reader_type")
            state["slide"] = {**asdict(self.slide), "reader_type": reader_type}
            change(state)
            state.update(trident_version=__version__, updated_at=utc_now())
            write_json(self.path, state)

    def _put_aside(self, error: Exception) -> None:
        aside = self.path.with_name(self.path.name[-200:] + ".damaged")
        try:
            self.path.replace(aside)
        except OSError as problem:
            raise store_error(self.path, problem, "moved aside") from problem
        logger.warning("%s: this state file was damaged (%s); it is kept as %s", self.path, error, aside.name)

    def _duration_s(self, attempt: State) -> float | None:
        """Seconds since the attempt began; by this process's own clock where it began here."""
        began = self._clocks.pop(attempt["attempt_id"], None)
        if began is not None:
            return round(time.monotonic() - began, 3)
        try:
            elapsed = datetime.fromisoformat(utc_now()) - datetime.fromisoformat(attempt["started_at"])
        except (TypeError, ValueError):  # another tool's way to write a date
            return None
        return round(max(0.0, elapsed.total_seconds()), 3)


class _DamagedError(Exception):
    """A state file that cannot be used, and why."""


def _new_state() -> State:
    return {
        "schema_version": SCHEMA_VERSION,
        "trident_version": __version__,
        "slide": {},
        "meta": {"dimensions": None, "mpp": None, "mag": None, "level_count": None},
        "tasks": {},
        "summary": {},
        "resume": {"last_task": None, "last_status": None, "last_updated_at": None, "last_error": None},
        "updated_at": utc_now(),
    }


def _task(state: State, task: str) -> State:
    new: State = {"status": "not_started", "reason": None, "message": None, "attempts": [], "outputs": {}}
    entry: State = state["tasks"].setdefault(task, new)
    return entry


def _open_attempt(entry: State, attempt_id: str | None) -> State | None:
    for attempt in reversed(entry["attempts"]):
        if attempt["finished_at"] is None and attempt_id in (None, attempt["attempt_id"]):
            found: State = attempt
            return found
    return None


def _set_resume(state: State, task: str, status: str, error: str | None) -> None:
    state["resume"] = {"last_task": task, "last_status": status, "last_updated_at": utc_now(), "last_error": error}


def _describe_output(path: Path) -> State:
    try:
        return {"path": str(path), "exists": True, "bytes": path.stat().st_size}
    except OSError:
        return {"path": str(path), "exists": False, "bytes": None}


def _read(path: Path) -> State:
    """Read one state file.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it cannot be read.
        _DamagedError: it is not what it should be.
    """
    try:
        state = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise store_error(path, error, "read") from error
    except (ValueError, RecursionError) as error:
        raise _DamagedError("it is not JSON") from error
    if not isinstance(state, dict) or state.get("schema_version") != SCHEMA_VERSION:
        raise _DamagedError(f"it is not of schema version {SCHEMA_VERSION}")
    for key in ("slide", "meta", "tasks", "summary", "resume"):
        if not isinstance(state.get(key), dict):
            raise _DamagedError(f"its {key!r} is not an object")
    for task, entry in state["tasks"].items():
        attempts = entry.get("attempts") if isinstance(entry, dict) else None
        if not isinstance(attempts, list) or not all(
            isinstance(a, dict) and a.keys() >= _ATTEMPT_KEYS for a in attempts
        ):
            raise _DamagedError(f"its task {task!r} is not what it should be")
    return state


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON's")
    return value


_ATTEMPT_KEYS = {"attempt_id", "started_at", "finished_at"}
