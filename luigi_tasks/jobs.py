"""From options on a command line to a frozen job, once per process."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from luigi.cmdline_parser import CmdlineParser

from luigi_tasks.engine import require_luigid, scheduler_of_command_line
from trident.errors import TridentError
from trident.exit_codes import USAGE
from trident.job import Job, create_job, load_job
from trident.settings import configure_log, load_settings
from trident.stages.plan import JobStages

logger = logging.getLogger(__name__)

PROCESS_RUN_ID = uuid.uuid4().hex[:12]
"""Identity of this invocation where nobody gives another."""

_resolved: dict[str, Job] = {}


def new_run_id() -> str:
    """Twelve hexadecimal digits that name a run."""
    return uuid.uuid4().hex[:12]


def resolve(values: dict[str, Any], *, kinds: tuple[str, ...] | None = None, run_id: str = PROCESS_RUN_ID) -> str:
    """Path of the job file for the given options.

    Args:
        values: options, as somebody gave them.
        kinds: kinds of stage to make, instead of those of `--task`.
        run_id: what tells a run with `--overwrite` from others.

    Raises:
        TridentError: an option is wrong, or the slides cannot be listed.
    """
    given = tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in values.items()))
    return _resolve(given, kinds, run_id)


@contextmanager
def usage_errors() -> Iterator[None]:
    """On the `luigi` command line a wrong option, or a luigid that is not there, ends the process with one line.

    Elsewhere the error goes on.
    """
    try:
        yield
        if CmdlineParser.get_instance() is not None:
            _require_luigid()
    except TridentError as error:
        if CmdlineParser.get_instance() is None:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USAGE)


@lru_cache(maxsize=1)
def _require_luigid() -> None:
    """Once, when the first task is made: a luigid that is restarted during a run is waited for."""
    require_luigid(scheduler_of_command_line())


@lru_cache(maxsize=16)
def _resolve(given: tuple[tuple[str, Any], ...], kinds: tuple[str, ...] | None, run_id: str) -> str:
    settings = load_settings(**dict(given))
    if CmdlineParser.get_instance() is not None:
        configure_log(settings)
    job = create_job(settings, kinds=kinds, nonce=run_id)
    if not job.settings.dry_run:
        job.save()
    _resolved[str(job.path)] = job
    return str(job.path)


def get_job(path: str) -> Job:
    """The job of a job file; that of this process without reading it."""
    return _resolved.get(path) or load_job(Path(path))


@lru_cache(maxsize=16)
def get_stages(path: str) -> JobStages:
    """The stages of a job, with what is common to its slides worked out once."""
    return JobStages(get_job(path))


@lru_cache(maxsize=16)
def slide_positions(path: str) -> dict[str, int]:
    """Position of each slide in the job's order."""
    return {name: index for index, name in enumerate(get_job(path).slides)}
