"""One wording for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def explain_unknown(what: str, name: object, known: Sequence[str]) -> str:
    """Sentence that says `name` is no `what`, offers the closest of `known`, and lists them all."""
    # Compared without separators and case, so that "uni-v1" or "UNI" finds "uni_v1".
    plain = {_plain(one): one for one in known}
    close = difflib.get_close_matches(_plain(str(name)), plain, n=1, cutoff=0.6)
    hint = f"; did you mean {plain[close[0]]}?" if close else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(known)})"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
