"""Settings as plain JSON values without anything secret, for files that people pass around."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

REMOVED = "[removed]"

_SECRET_KEY = re.compile(
    r"token|secret|passw|passphrase|credential|api[-_]?key|access[-_]?key|private[-_]?key|bearer|authorization",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,})")
_SECRET_URL_PART = re.compile(r"(?<=://)[^/@\s]+@")


def plain(settings: Mapping[str, object]) -> dict[str, object]:
    """JSON-ready copy of `settings`: secret-looking keys dropped, paths as text, no NaN, sets sorted."""
    return {str(key): _plain(value) for key, value in settings.items() if not _SECRET_KEY.search(str(key))}


def redact_text(text: str) -> str:
    """`text` with access tokens, and user names and passwords inside URLs, taken out."""
    return _SECRET_URL_PART.sub(f"{REMOVED}@", _SECRET_VALUE.sub(REMOVED, text))


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    return redact_text(value if isinstance(value, str) else str(value))
