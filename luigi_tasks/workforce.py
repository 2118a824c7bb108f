"""Who does the work of this process's tasks: the executors of the run, or the process itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luigi_tasks.engine import await_task_threads
from luigi_tasks.jobs import get_job
from trident.devices import usable
from trident.executors.docker import docker_launcher
from trident.executors.executor import process_launcher
from trident.executors.messages import StageRequest
from trident.executors.pool import Pool, lanes_for
from trident.job import Job
from trident.settings import host_options
from trident.stages.base import Progress, StageResult
from trident.stages.work import run_recorded, stages_for_work

IN_PROCESS = "this process"
_NOTE_S = 5.0
"""Time for tasks whose executor was killed to note that in its place; it takes milliseconds on a healthy disk."""

_pools: list[Pool] = []
"""The pool of the run that goes on in this process, if one does."""


@contextmanager
def executors(job: Job) -> Iterator[Pool | None]:
    """Have executors for the tasks of a run; None where the job wants its work done in this process.

    They start when the first task needs them, and end with the block.
    """
    settings = job.settings
    if settings.executor == "in-process":
        yield None
        return
    # An address may hold a password, and these options stand on command lines, which all users of the host can read.
    host = settings.model_dump(mode="json", include=set(host_options()), exclude={"scheduler_url"})
    pool = Pool(
        lanes_for(usable(settings.devices), settings.slides_per_gpu),
        docker_launcher(job, host) if settings.executor == "docker" else process_launcher(host),
        task_timeout_s=settings.task_timeout,
    )
    _pools.append(pool)
    try:
        yield pool
    finally:
        _pools.remove(pool)
        pool.close()
        await_task_threads(_NOTE_S)


def run_task(
    job_path: str,
    kind: str,
    slide: str,
    progress: Progress,
    *,
    uses_device: bool,
    on_lane: Callable[[str], object] = lambda lane: None,
) -> StageResult:
    """Run one stage of one slide, by an executor where this process has some.

    Args:
        job_path: path of the job file.
        kind: of the stage.
        slide: its name in the job.
        progress: told how far the stage is.
        uses_device: whether it needs a GPU, where there is one.
        on_lane: told where the stage runs, when it begins.

    Raises:
        TridentError, UnforeseenError: what the stage or its executor raised.
    """
    if _pools:
        return _pools[-1].run(StageRequest(job_path, kind, slide), progress, uses_device=uses_device, on_lane=on_lane)
    on_lane(IN_PROCESS)
    settings = get_job(job_path).settings
    host = tuple(sorted((name, getattr(settings, name)) for name in host_options()))
    stages = stages_for_work(job_path, settings.devices[0], host)
    return run_recorded(stages.stage(kind, slide), progress)
