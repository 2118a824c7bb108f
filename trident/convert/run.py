"""Converts many files, some at a time, each in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from trident.convert.stage import ConvertStage
from trident.convert.worker import request
from trident.devices import VISIBLE
from trident.stages.base import Condition, Status
from trident.store.locks import lock_status
from trident.store.processes import Liveness

logger = logging.getLogger(__name__)

_PROGRAM = "import sys; sys.path[:] = filter(None, sys.path); from trident.convert.worker import main; main()"
"""Without the current folder, which `-m` and `-c` search first: it may hold another package of this name."""

_POLL_S = 1.0
_GRACE_S = 3.0
"""So long a process may take to remove what it has begun; a run that is stopped should end within 5 s."""

_ATTEMPTS = 7
"""So often a file is tried that others convert at the same time; after each the end of the others is waited for."""


@dataclass(frozen=True)
class Outcome:
    """How the conversion of one file ended."""

    stage: ConvertStage
    status: str
    """`converted`, `skipped` or `error`."""
    message: str
    is_held: bool = False
    """It failed only because another run was writing the TIFF."""


def convert_all(
    stages: Sequence[ConvertStage], num_workers: int, report: Callable[[int, int], None] | None = None
) -> list[Outcome]:
    """Convert every file; one that fails costs no other. Outcomes come in the order of the stages.

    A file that another run converts at the same time is looked at again when that run is done with it.

    Args:
        stages: one for each file.
        num_workers: files at once.
        report: told (files ended, files in all) after each file.
    """
    crew = _Crew(max(1, (os.cpu_count() or 1) // num_workers))
    outcomes: dict[int, Outcome] = {}
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="convert")
    to_do, attempts = list(range(len(stages))), Counter[int]()
    try:
        while to_do:
            waiting = {pool.submit(crew.convert, stages[index]): index for index in to_do}
            attempts.update(to_do)
            to_do = []
            for ended in _as_they_end(waiting):
                index, outcome = waiting[ended], ended.result()
                if outcome.is_held and attempts[index] < _ATTEMPTS and not _is_abandoned(outcome.stage):
                    to_do.append(index)
                    continue
                outcomes[index] = outcome
                if outcome.status == "error":
                    logger.error("%s: %s", outcome.stage.source.name, outcome.message)
                if report is not None:
                    report(len(outcomes), len(stages))
            _wait_for_others([stages[index] for index in to_do])
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        crew.stop()
        raise
    finally:
        pool.shutdown(wait=True)
    return [outcomes[index] for index in range(len(stages))]


def _as_they_end(waiting: Iterable[Future[Outcome]]) -> Iterator[Future[Outcome]]:
    """Like `as_completed`, which alone, without a time limit, would not see a signal that another thread was given."""
    left = set(waiting)
    while left:
        ended, left = wait(left, _POLL_S, FIRST_COMPLETED)
        yield from ended


def _is_abandoned(stage: ConvertStage) -> bool:
    """Whether there is a lock on the TIFF for whose end nobody should wait."""
    holder = lock_status(stage.output)
    return holder is not None and not holder.is_in_use and holder.state is not Liveness.ALIVE


def _wait_for_others(stages: Sequence[ConvertStage]) -> None:
    """Wait until other runs have let go of the TIFFs of these stages."""
    for stage in stages:
        holder, told = lock_status(stage.output), False
        while holder is not None and not _is_abandoned(stage):
            if not told:
                logger.info("%s: waiting for another run (%s)", stage.source.name, holder.describe())
                told = True
            time.sleep(_POLL_S)
            holder = lock_status(stage.output)


class _Crew:
    """The processes that convert."""

    def __init__(self, threads: int) -> None:
        self._environment = {
            **os.environ,
            "VIPS_CONCURRENCY": str(threads),
            VISIBLE: "",  # nothing is computed on a GPU here, and importing cuCIM would open a context on each
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path if Path(path).is_dir()),  # noqa: PTH109
        }
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def convert(self, stage: ConvertStage) -> Outcome:
        status = stage.status()
        if status.done:
            return Outcome(stage, "skipped", status.why)
        if status.condition is Condition.CONFLICT:
            return Outcome(stage, "error", status.why)
        return self._in_a_process(stage, status)

    def stop(self) -> None:
        """End every process; each removes what it has begun."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # what it leaves behind is cleared away by the next run
                process.kill()
                process.wait()

    def _in_a_process(self, stage: ConvertStage, status: Status) -> Outcome:
        with self._lock:
            if self._stopped:
                return Outcome(
                    stage, "error", f"{stage.source.path}: not converted ({status.why}): the run was stopped"
                )
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            self._running.add(process)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request(stage) + "\n")
            process.stdin.flush()
            answer = process.stdout.read()
        except BrokenPipeError:  # it is gone; its exit code says how
            answer = ""
        finally:
            process.wait()
            process.stdout.close()
            _close_quietly(process)
            with self._lock:
                self._running.discard(process)
        return _outcome(stage, answer, process.returncode)


def _close_quietly(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        logger.debug("process %d ended before it had read its request", process.pid)


def _outcome(stage: ConvertStage, answer: str, code: int) -> Outcome:
    lines = answer.splitlines()
    if code != 0 or not lines:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return Outcome(
            stage,
            "error",
            f"{stage.source.path}: the process that converted it {how}; if the log above says no more, the file brings "
            "a library down or needs more memory than there is",
        )
    told = json.loads(lines[-1])
    if "error" in told:
        return Outcome(stage, "error", str(told["error"]), is_held=bool(told.get("held")))
    return Outcome(stage, "skipped" if told["skipped"] else "converted", str(told["message"]))
