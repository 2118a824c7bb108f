"""`_config_<stage>.json`: the settings of a stage, for people who come to a job directory later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trident.store.atomic import write_json
from trident.store.redact import plain


def write_stage_config(path: Path, settings: Mapping[str, object]) -> None:
    """Write the settings of a stage atomically; a file that says the same already is left alone.

    Anything secret is dropped (see `trident.store.redact`), and paths become text.

    Raises:
        StoreError: the file cannot be written.
    """
    wanted = plain(settings)
    if _current(path) != wanted:
        write_json(path, wanted)


def _current(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: it is written anew, and a real trouble shows there
        return None
