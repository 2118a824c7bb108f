"""`_logs_<stage>.txt`: one line a slide, `name.ext: message`, always the latest."""

from __future__ import annotations

import os
from pathlib import Path

from trident.store.atomic import store_error, write_bytes
from trident.store.guards import folder_guard
from trident.store.redact import redact_text


def record(path: Path, slide_file_name: str, message: str) -> None:
    """Note `message` about a slide; the slide's earlier line, if any, goes.

    Args:
        path: the log, `JobLayout.stage_log(stage)`.
        slide_file_name: with extension.
        message: put on one line.

    Raises:
        StoreError: the log cannot be written.
    """
    key = f"{_one_line(slide_file_name)}: ".encode("utf-8", "backslashreplace")
    line = key + _one_line(redact_text(message)).encode("utf-8", "backslashreplace") + b"\n"
    with folder_guard(path.parent):
        try:
            content = _read(path)
            lines = content.split(b"\n")
            cut_off = lines.pop()  # empty where the last line is whole
            if not cut_off and not any(old.startswith(key) for old in lines):
                _append(path, line)
                return
        except OSError as error:
            raise store_error(path, error) from error
        others = [old for old in [*lines, cut_off] if old and not old.startswith(key)]
        write_bytes(path, b"".join(old + b"\n" for old in others) + line)


def _read(path: Path) -> bytes:
    """What the log holds. A link in its place is not followed: it would lead to some other file's lines."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    with os.fdopen(handle, "rb") as file:
        return file.read()


def _append(path: Path, line: bytes) -> None:
    """In one write where the disk takes it, so that readers see whole lines."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        while line:
            line = line[os.write(handle, line) :]
    finally:
        os.close(handle)


def _one_line(text: str) -> str:
    return " ".join(text.split())
