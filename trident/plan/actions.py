"""From where a stage stands to what a run does with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trident.encoders.slide.registry import slide_to_patch_encoder_name
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, STAGE_KINDS
from trident.stages.base import Condition, Status

RUN, SKIP, STOP = "run", "skip", "stop"
MAYBE = "skip?"
"""Done, and made from what an earlier stage of this run makes anew: whether it stays, that one's result tells."""

_ACTIONS = {
    Condition.DONE: SKIP,
    Condition.MISSING: RUN,
    Condition.STALE: RUN,
    Condition.OVERWRITE: RUN,
    Condition.CONFLICT: STOP,
    Condition.BLOCKED: STOP,
}
_PRODUCTS = {
    SEGMENTATION: "outlines",
    COORDS: "coordinates",
    PATCH_FEATURES: "patch features",
    SLIDE_FEATURES: "slide embeddings",
}


def action_of(status: Status) -> str:
    """`run`, `skip`, or `stop`: the slide would fail there."""
    return _ACTIONS[status.condition]


def redone_before(actions: Mapping[str, str]) -> dict[str, str]:
    """Which stages of one slide and patch grid may be made anew although they are done, and after which earlier one.

    Args:
        actions: `run`, `skip` or `stop`, by stage key.

    Returns:
        By key of a stage that is skipped: the first stage before it that runs.
    """
    running = sorted((key for key, action in actions.items() if action == RUN), key=_position)
    return {
        key: earlier
        for key, action in actions.items()
        if action == SKIP
        for earlier in [next((one for one in running if _is_made_from(key, one)), None)]
        if earlier is not None
    }


def with_caveat(why: str, earlier: str) -> str:
    """Why a stage is skipped, and that it is not if `earlier`, which runs before it, does not give the same again."""
    return f"{why}; made anew if {earlier} turns out different"


def causes(earlier: Iterable[str]) -> str:
    """What the stages of `redone_before` make, for people, such as `coordinates or patch features`."""
    kinds = {key.partition(":")[0] for key in earlier}
    return " or ".join(made for kind, made in _PRODUCTS.items() if kind in kinds)


def _position(key: str) -> int:
    return STAGE_KINDS.index(key.partition(":")[0])


def _is_made_from(key: str, earlier: str) -> bool:
    """Whether a stage is made, by whatever steps, from the output of another one."""
    if _position(key) <= _position(earlier):
        return False
    (kind, _, encoder), (earlier_kind, _, earlier_encoder) = key.partition(":"), earlier.partition(":")
    if (kind, earlier_kind) == (SLIDE_FEATURES, PATCH_FEATURES):
        return slide_to_patch_encoder_name.get(encoder, earlier_encoder) == earlier_encoder
    return True
