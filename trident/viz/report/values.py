"""Values out of JSON that anybody may have written: of the right kind, or a harmless stand-in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 << 20
"""A job file of 100,000 slides has a third of this."""


def text(value: object) -> str | None:
    """A string that is not empty, else None."""
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """A finite number as a float, else None (also for true and false)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e15 and math.isfinite(value) else None


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def listing(value: object) -> Sequence[Any]:
    """A JSON list, else an empty one."""
    return value if isinstance(value, list) else []


def load_object(path: Path) -> tuple[Mapping[str, Any], str | None]:
    """(JSON object of a file, None), or (an empty one, what is wrong with the file)."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            return {}, f"it is larger than {MAX_JSON_BYTES >> 20} MiB"
        value = json.loads(path.read_bytes())
    except OSError as error:
        return {}, f"it cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        return {}, "it is empty" if path.stat().st_size == 0 else "it is not JSON"
    return (value, None) if isinstance(value, dict) else ({}, "it is not a JSON object")
