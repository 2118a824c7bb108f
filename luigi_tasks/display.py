"""The live display of a run in a terminal. Elsewhere the log's plain lines say how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luigi_tasks.progress import RunProgress, Snapshot
from trident.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

_PER_SECOND = 4.0
_BAR = 60


@contextmanager
def display(progress: RunProgress, settings: Settings) -> Iterator[None]:
    """Show the run's progress while the block lasts, if a person is looking."""
    if settings.quiet or settings.debug or settings.log_format != "text" or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, soft_wrap=True)
    # What the log writes meanwhile appears above the display.
    live = Live(
        get_renderable=lambda: picture(progress.snapshot()),
        console=console,
        refresh_per_second=_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=True,
    )
    with live:
        yield


def picture(now: Snapshot) -> RenderableType:
    """The display: a bar over all stages, a line of figures, and a line for each device's slide."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = now.stages_done + now.stages_failed
    head = Table.grid()
    head.add_row(ProgressBar(total=max(now.stages_total, 1), completed=ended, width=_BAR))
    head.add_row(Text(now.line(), no_wrap=True, overflow="ellipsis"))
    table = Table.grid(padding=(0, 2))
    for work in now.work:
        share = f"{work.done} of {work.total}" if work.total else ""
        table.add_row(Text(work.lane, style="bold"), Text(work.slide), Text(work.kind.replace("_", " ")), Text(share))
    return Group(head, table)
