"""One conversion in a process of its own, started by `trident.convert.run`.

The first line of stdin says what to convert; stdin then stays open for as long as somebody wants the result, so that
no conversion outlives its run. The last line of stdout is the outcome. A file that brings a library down costs only
this process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trident import log
from trident.convert.options import ConvertOptions
from trident.convert.stage import ConvertStage
from trident.errors import LockHeldError, TridentError
from trident.exit_codes import INTERRUPTED
from trident.slides.discovery import SlideSource
from trident.stages.base import run_stage
from trident.store import atomic, locks

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
"""So often the main thread, which alone runs signal handlers, looks whether one came."""


def request(stage: ConvertStage) -> str:
    """The line that asks for a conversion."""
    return json.dumps(
        {
            "options": stage.options.model_dump(mode="json"),
            "source": {**asdict(stage.source), "path": str(stage.source.path)},
            "overwrite_run": stage.context.overwrite_run,
        }
    )


def stage_of(line: str) -> ConvertStage:
    """The conversion that a line of `request` asks for."""
    asked = json.loads(line)
    source = SlideSource(**{**asked["source"], "path": Path(asked["source"]["path"])})
    return ConvertStage(ConvertOptions(**asked["options"]), source, asked["overwrite_run"])


def main() -> None:
    """Convert one file."""
    log.configure()
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # what it warns of comes as an error too, if it is one
    stage = stage_of(sys.stdin.readline())
    signal.signal(signal.SIGTERM, lambda number, frame: _give_up())
    signal.signal(signal.SIGINT, lambda number, frame: _give_up())
    threading.Thread(target=_watch_stdin, name="watch-stdin", daemon=True).start()
    outcome: dict[str, Any] = {}
    # In a thread: a signal's handler runs in this one, which must not be inside libvips for minutes.
    work = threading.Thread(target=_convert, args=(stage, outcome), name="convert", daemon=True)
    work.start()
    while (
        work.is_alive()
    ):  # with a time limit: a signal that the system gives to another thread ends no wait of this one
        work.join(_LOOK_S)
    sys.stdout.write(json.dumps(outcome) + "\n")


def _convert(stage: ConvertStage, outcome: dict[str, Any]) -> None:
    try:
        result = run_stage(stage)
        outcome.update(message=result.message, skipped=result.skipped)
    except TridentError as error:
        outcome.update(error=str(error), held=isinstance(error, LockHeldError))
    except Exception as error:  # told as an error of this file, with its traceback in the log
        logger.exception("%s: unforeseen error", stage.source.path)
        outcome["error"] = f"{stage.source.path}: {type(error).__name__}: {error}"


def _watch_stdin() -> None:
    sys.stdin.read()
    _give_up()


def _give_up() -> None:
    """End at once, and leave neither half a file nor a lock."""
    atomic.discard_all()
    locks.release_all()
    os._exit(INTERRUPTED)
