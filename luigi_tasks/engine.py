"""Starts Luigi: which scheduler, which worker, and how a run stops at its first failure."""

from __future__ import annotations

import logging
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import luigi
from luigi import rpc, scheduler, worker
from luigi.cmdline_parser import CmdlineParser
from luigi.retcodes import retcode

from trident import exit_codes
from trident.errors import SettingsError, TridentError
from trident.job import Job

_ANSWER_S = 10.0
_WAIT_S = 1.0
_WAIT_JITTER_S = 0.2
_NEVER_S = 10**9
"""Within a run a failed task is not tried again: the sweep decides."""


def set_exit_code(code: int) -> None:
    """Luigi knows one exit code for failed tasks, and has read it before our task is made: change it there.

    A code of the user's own, from `[retcode]` in `luigi.cfg`, stays.
    """
    if CmdlineParser.get_instance() is not None:
        codes = retcode()
        if codes.task_failed in (exit_codes.STOPPED, exit_codes.FINISHED_WITH_FAILURES):
            codes.task_failed = code


@dataclass(frozen=True)
class SchedulerChoice:
    """The scheduler of a run: a luigid at `url`, or one in this process (None)."""

    url: str | None


def choose_scheduler(job: Job) -> SchedulerChoice:
    """The scheduler that the `luigi` command line names; else that of the job's options."""
    if CmdlineParser.get_instance() is None:
        return SchedulerChoice(job.settings.scheduler_url)
    core = luigi.interface.core()
    if core.local_scheduler:
        return SchedulerChoice(None)
    return SchedulerChoice(core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}")


def require_luigid(choice: SchedulerChoice) -> None:
    """Ask once whether luigid is there; Luigi itself would try for a minute before it says anything.

    Raises:
        SettingsError: this is no address.
        TridentError: luigid does not answer.
    """
    if choice.url is None or choice.url.startswith("http+unix://"):
        return
    if not choice.url.startswith(("http://", "https://")):
        raise SettingsError(f"--scheduler_url {choice.url}: write it as http://host:port")
    try:
        urllib.request.urlopen(choice.url, timeout=_ANSWER_S).close()
    except urllib.error.HTTPError:
        return  # an answer, if a strange one
    except (OSError, ValueError) as error:
        raise _no_answer(choice, error) from error


def _no_answer(choice: SchedulerChoice, error: Exception) -> TridentError:
    return TridentError(f"{choice.url}: luigid does not answer ({error}); start it, or run without its address")


class Engine:
    """Makes schedulers and workers for `luigi.build`, and can ask the worker to take no more tasks."""

    def __init__(self) -> None:
        self._worker: worker.Worker | None = None

    def create_local_scheduler(self) -> scheduler.Scheduler:
        """A scheduler in this process."""
        return scheduler.Scheduler(prune_on_get_work=True, record_task_history=False, retry_delay=_NEVER_S)

    def create_remote_scheduler(self, url: str) -> rpc.RemoteScheduler:
        """A running luigid."""
        return rpc.RemoteScheduler(url)

    def create_worker(self, scheduler: Any, worker_processes: int, assistant: bool = False) -> worker.Worker:
        """One worker; Luigi's own default of five seconds' idle wait is far too long."""
        self._worker = worker.Worker(
            scheduler=scheduler,
            worker_processes=worker_processes,
            assistant=assistant,
            wait_interval=_WAIT_S,
            wait_jitter=_WAIT_JITTER_S,
            keep_alive=False,
        )
        return self._worker

    def take_no_more(self) -> None:
        """Let the running tasks end and start no other (what SIGUSR1 does in Luigi)."""
        if self._worker is not None:
            self._worker.handle_interrupt(signal.SIGUSR1, None)


def _free_fork_lock() -> None:
    worker.fork_lock = threading.Lock()


# With `--workers 2` Luigi forks a process for RunCohort while it holds this lock, which is then held for ever in the
# child; the inner worker of our run would wait for it.
os.register_at_fork(after_in_child=_free_fork_lock)


def build(tasks: Sequence[luigi.Task], choice: SchedulerChoice, engine: Engine, *, debug: bool = False) -> None:
    """Run tasks and what they need, in this process, one at a time.

    Raises:
        TridentError: luigid does not answer.
    """
    where: dict[str, Any] = {"local_scheduler": True} if choice.url is None else {"scheduler_url": choice.url}
    with _quiet_luigi(debug):
        try:
            luigi.build(list(tasks), worker_scheduler_factory=engine, workers=1, **where)
        except rpc.RPCError as error:
            raise _no_answer(choice, error) from error


@contextmanager
def _quiet_luigi(debug: bool) -> Iterator[None]:
    """Keep Luigi's own log from repeating ours: without `--debug`, only what is worse than a failed task."""
    interface = logging.getLogger("luigi-interface")
    level = interface.level
    if CmdlineParser.get_instance() is None:
        luigi.configuration.get_config().set("core", "no_configure_logging", "true")
        interface.setLevel(logging.INFO if debug else logging.CRITICAL)
    try:
        yield
    finally:
        interface.setLevel(level)
