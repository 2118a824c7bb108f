"""Where the time of a stage went, and what would help: from the seconds in the states to one line for people.

Phases, in seconds of the thread that runs the stage unless something else is said:

- `total`: the whole stage.
- `load`: loading a model; near 0 where it was loaded already.
- `open`: opening the slide.
- `wait`: waiting for patches, or reading them in this thread.
- `read`, `decode`, `transform`: waiting for the file's bytes, decoding, and resizing, summed over the reading threads:
  they divide `wait`. Where a library reads and decodes at once, `decode` is both.
- `encode`: starting the device and waiting for it; of a segmenter, its network.
- `write`: writing files, and drawing pictures.
- `others`: encoding and writing for the other encoders of the same pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

_SHOWN_SHARE = 0.05
_MAJOR_SHARE = 0.5
_WAITED_FOR = ("read", "decode", "resize")

_HINTS = {
    "read": (
        "the device waited for the disk; more slides at once, a faster disk or, for slides, copies on a local one "
        "(--wsi_cache) may help"
    ),
    "decode": (
        "the device waited for pixels; try more reading threads (--max_workers) or more slides at once, and copies on "
        "a local disk where the slides lie on slow storage (--wsi_cache)"
    ),
    "resize": (
        "the device waited for resizing; try more reading threads (--max_workers), or a --patch_size at which the "
        "slide has a level of its own"
    ),
    "encode": (
        "the model is the limit; more or faster GPUs (--gpus), --precision bfloat16 or a larger batch "
        "(--feat_batch_size, --seg_batch_size) may help"
    ),
    "other encoders": (
        "the other encoders of the pass are the limit; more or faster GPUs (--gpus) or --precision bfloat16 may help"
    ),
    "write": "writing is the limit; put --job_dir on a faster disk",
    "load": "loading the model took the most; more slides in one run share it",
    "open": "opening slides took the most; copies on a local disk may help (--wsi_cache)",
}
"""What to do where a phase takes more than half of the time."""


def summed(timings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by phase over several slides."""
    total: dict[str, float] = defaultdict(float)
    for one in timings:
        for phase, seconds in _apart(one).items():
            total[phase] += seconds
    return dict(total)


def _apart(timings: Mapping[str, float]) -> Mapping[str, float]:
    """States of earlier versions know only what reading and decoding took together, as `read`."""
    if "decode" in timings or "read" not in timings:
        return timings
    return {**timings, "read": 0.0, "decode": timings["read"]}


def shares(timings: Mapping[str, float]) -> dict[str, float]:
    """What share of the whole, 0 to 1, each part took; largest first.

    Waiting for patches counts as `read`, `decode` and `resize`, in the proportion in which the reading threads were
    busy with them.
    """
    timings = _apart(timings)
    wait = timings.get("wait", 0.0)
    busy = {
        "read": timings.get("read", 0.0),
        "decode": timings.get("decode", 0.0),
        "resize": timings.get("transform", 0.0),
    }
    in_all = sum(busy.values())
    waited = {part: wait * seconds / in_all for part, seconds in busy.items()} if in_all > 0 else {"decode": wait}
    parts = {
        **waited,
        "encode": timings.get("encode", 0.0),
        "other encoders": timings.get("others", 0.0),
        "write": timings.get("write", 0.0),
        "load": timings.get("load", 0.0),
        "open": timings.get("open", 0.0),
    }
    whole = max(timings.get("total", 0.0), sum(parts.values()))
    found = {part: seconds / whole for part, seconds in parts.items() if seconds > 0} if whole > 0 else {}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def describe(timings: Mapping[str, float]) -> str | None:
    """One line: the largest shares and, where one part dominates, what may help. None where nothing is known.

    Example:
        `71 % decode, 9 % encode: the device waited for pixels; try …`
    """
    found = shares(timings)
    listed = ", ".join(
        f"{share:.0%}".replace("%", " %") + f" {part}" for part, share in found.items() if share >= _SHOWN_SHARE
    )
    if not listed:
        return None
    waiting = {part: share for part, share in found.items() if part in _WAITED_FOR}
    first = next(iter(found))
    if sum(waiting.values()) > _MAJOR_SHARE:  # together they may be most of it where none is
        first = next(iter(waiting))
    elif found[first] <= _MAJOR_SHARE:
        return listed
    return f"{listed}: {_HINTS[first]}"
