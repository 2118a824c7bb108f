"""Starts Luigi: which scheduler, which worker, and how a run stops at its first failure."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import luigi
from luigi import rpc, scheduler, worker
from luigi.cmdline_parser import CmdlineParser
from luigi.retcodes import retcode

from luigi_tasks.patient_scheduler import PatientScheduler
from trident import exit_codes
from trident.errors import TridentError
from trident.job import Job
from trident.luigid import problem_of, shown_address
from trident.store.redact import redact_text

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
        if code == exit_codes.USAGE and codes.unhandled_exception == exit_codes.UNEXPECTED:
            codes.unhandled_exception = code  # Luigi cannot tell a luigid that was lost how the task ended


@dataclass(frozen=True)
class SchedulerChoice:
    """The scheduler of a run: a luigid at `url`, or one in this process (None)."""

    url: str | None


def choose_scheduler(job: Job) -> SchedulerChoice:
    """The scheduler that the `luigi` command line names; else that of the job's options."""
    if CmdlineParser.get_instance() is None:
        return SchedulerChoice(job.settings.scheduler_url)
    return scheduler_of_command_line()


def scheduler_of_command_line() -> SchedulerChoice:
    """The scheduler that `luigi` itself will use: without any option it is a luigid at Luigi's usual address."""
    core = luigi.interface.core()
    if core.local_scheduler:
        return SchedulerChoice(None)
    return SchedulerChoice(core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}")


def require_luigid(choice: SchedulerChoice) -> None:
    """Ask once whether luigid is there; Luigi itself would try for a minute before it says anything.

    Raises:
        TridentError: luigid does not answer, or this is no address.
    """
    if choice.url is None or choice.url.startswith("http+unix://"):
        return
    problem = problem_of(choice.url, _ANSWER_S)
    if problem is not None:
        raise _without_luigid(choice.url, problem)


def _without_luigid(url: str, problem: str) -> TridentError:
    return TridentError(
        f"{shown_address(url)}: {problem}; start luigid there, or run without its address "
        "(`luigi`: with --local-scheduler)"
    )


class TaskThread(threading.Thread):
    """One task in a thread. It is idle: an executor does the work, and the thread waits for its answer."""

    exitcode = None
    timeout_time = None
    """Luigi's own ways to see that a process of its died, or took too long; executors have others."""

    def __init__(self, process: worker.TaskProcess) -> None:
        super().__init__(name=f"task-{process.task.task_id}", daemon=True)
        self.task = process.task
        self.status_reporter = process.status_reporter
        self._process = process

    def terminate(self) -> None:
        """What Luigi calls when a run is interrupted: the executors' end ends the thread's wait."""

    def run(self) -> None:
        """Run the task as Luigi does; the result is in the worker's queue afterwards."""
        with suppress(KeyboardInterrupt):  # the task was interrupted with the run
            self._process.run()


def await_task_threads(seconds: float) -> None:
    """Wait until the tasks of a run that was interrupted have noted how they ended; not longer than this."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if isinstance(thread, TaskThread) and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))


class _ResultQueue(queue.Queue[Any]):
    """Luigi closes its queue between processes at the end; one between threads needs no closing."""

    def close(self) -> None:
        """Nothing to give back."""


class ThreadingWorker(worker.Worker):
    """Luigi's worker with threads in place of forked processes.

    Measured with tasks that do nothing, Luigi included: 7 to 8 ms a task with forks, 1.4 to 1.7 ms with threads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._task_result_queue: Any = _ResultQueue()

    def _create_task_process(self, task: luigi.Task) -> worker.TaskProcess:
        reporter = worker.TaskStatusReporter(self._scheduler, task.task_id, self._id, None)
        return worker.TaskProcess(
            task,
            self._id,
            self._task_result_queue,
            reporter,
            check_unfulfilled_deps=False,  # the stage itself looks at its inputs, under the lock
            task_completion_cache=self._task_completion_cache,
        )

    def _run_task(self, task_id: str) -> None:
        if task_id in self._running_tasks:
            super()._run_task(task_id)  # type: ignore[no-untyped-call]
            return
        thread = TaskThread(self._create_task_process(self._scheduled_tasks[task_id]))
        self._running_tasks[task_id] = thread
        thread.start()


class LockedScheduler:
    """A scheduler of this process that several threads may call."""

    def __init__(self, inner: scheduler.Scheduler) -> None:
        self._inner = inner
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return found(*args, **kwargs)

        return call


class Engine:
    """Makes schedulers and workers for `luigi.build`, and can ask the worker to take no more tasks."""

    def __init__(self, slots: int = 0) -> None:
        """Args:
        slots: tasks at once, each in a thread; 0: one at a time in the calling thread.
        """
        self.slots = slots
        self._worker: worker.Worker | None = None

    def create_local_scheduler(self) -> LockedScheduler:
        """A scheduler in this process; with one worker, which cannot die alone, there is nothing to prune."""
        return LockedScheduler(
            scheduler.Scheduler(prune_on_get_work=False, record_task_history=False, retry_delay=_NEVER_S)
        )

    def create_remote_scheduler(self, url: str) -> PatientScheduler:
        """A running luigid, which now forgets workers that died: their tasks can be announced again.

        To prune at every request for work, as luigid's `prune_on_get_work` does, costs time for each task it remembers.
        """
        remote: Any = PatientScheduler(url)
        remote.prune()
        return remote  # type: ignore[no-any-return]

    def create_worker(self, scheduler: Any, worker_processes: int, assistant: bool = False) -> worker.Worker:
        """One worker; Luigi's own default of five seconds' idle wait is far too long."""
        kind: Any = ThreadingWorker if self.slots else worker.Worker
        self._worker = kind(
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


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within the block SIGTERM, which a cluster sends before it kills, stops the run as Ctrl-C does; once.

    Further signals are ignored until the block is left, so that cleaning up is not cut short. In a process that Luigi
    forked (`--workers 2`) the end of the parent stops the run too.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    over = threading.Event()
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_stop_with_parent, args=(os.getppid(), over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_with_parent(parent: int, over: threading.Event) -> None:
    while not over.wait(1.0):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _free_fork_lock() -> None:
    worker.fork_lock = threading.Lock()


# With `--workers 2` Luigi forks a process for RunCohort while it holds this lock, which is then held for ever in the
# child; the inner worker of our run would wait for it.
os.register_at_fork(after_in_child=_free_fork_lock)


def build(tasks: Sequence[luigi.Task], choice: SchedulerChoice, engine: Engine, *, debug: bool = False) -> None:
    """Run tasks and what they need.

    Raises:
        TridentError: luigid does not answer.
    """
    where: dict[str, Any] = {"local_scheduler": True} if choice.url is None else {"scheduler_url": choice.url}
    with _quiet_luigi(debug):
        try:
            luigi.build(list(tasks), worker_scheduler_factory=engine, workers=engine.slots or 1, **where)
        except rpc.RPCError as error:
            url = str(choice.url)
            told = redact_text(str(error).replace(url, shown_address(url)))
            raise _without_luigid(url, f"luigid does not answer ({told})") from error


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
