"""What a check says, and how one runs so that a broken library cannot take the doctor with it."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD_S = 120.0
"""Time for a check that runs in a process of its own."""


class Verdict(enum.Enum):
    """How a check ended."""

    PASS = "pass"
    WARN = "warn"
    """Works, or is not needed by every run."""
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str | None = None
    """What mends it: a command where there is one."""


Check = Callable[[], list[Finding]]


def passed(name: str, detail: str) -> Finding:
    """All is well."""
    return Finding(name, Verdict.PASS, detail)


def warned(name: str, detail: str, remedy: str | None = None) -> Finding:
    """Something that not every run needs is missing."""
    return Finding(name, Verdict.WARN, detail, remedy)


def failed(name: str, detail: str, remedy: str | None = None) -> Finding:
    """Runs will fail."""
    return Finding(name, Verdict.FAIL, detail, remedy)


class ChildError(Exception):
    """The child did not answer; says how it ended."""


def ask_child(code: str, *arguments: str | Path, timeout_s: float = CHILD_S) -> Any:
    """Run python code in a process of its own; what it prints last is a JSON value, which is returned.

    Native libraries that do not fit the machine end their process: there that is an answer, here it would be the end.

    Raises:
        ChildError: it crashed, raised, or took longer than `timeout_s` seconds.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"no answer within {timeout_s:.0f} s") from error
    if done.returncode < 0:
        raise ChildError(f"it crashes with signal {-done.returncode}")
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines()
        raise ChildError(said[-1] if said else f"it ends with exit code {done.returncode}")
    return json.loads(lines[-1])
