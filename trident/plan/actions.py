"""From where a stage stands to what a run does with it."""

from __future__ import annotations

from trident.stages.base import Condition, Status

RUN, SKIP, STOP = "run", "skip", "stop"

_ACTIONS = {
    Condition.DONE: SKIP,
    Condition.MISSING: RUN,
    Condition.STALE: RUN,
    Condition.OVERWRITE: RUN,
    Condition.CONFLICT: STOP,
    Condition.BLOCKED: STOP,
}


def action_of(status: Status) -> str:
    """`run`, `skip`, or `stop`: the slide would fail there."""
    return _ACTIONS[status.condition]
