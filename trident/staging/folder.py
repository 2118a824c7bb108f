"""The one folder inside `--wsi_cache` that the cache makes, marks and may empty; nothing beside it is ever touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from trident.errors import SettingsError
from trident.staging.files import HIDDEN_PREFIX
from trident.staging.flocks import guard
from trident.staging.problems import NotStagedError

MARK = "CACHEDIR.TAG"
"""The usual mark of a cache (bford.info/cachedir): programs that make backups leave such a folder out."""

_MARK_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Copies of slides, made and removed by TRIDENT (--wsi_cache). It may be deleted while no run uses it.
"""


def cache_root(folder: Path) -> Path:
    """Where copies lie below the user's `folder`: hidden, and one for each user, since nobody else may read them."""
    return folder / f"{HIDDEN_PREFIX}{os.geteuid()}"


def guard_path(root: Path) -> Path:
    """The file that is locked while slots are chosen."""
    return root / "guard"


def slots_dir(root: Path) -> Path:
    """Where slots lie."""
    return root / "slots"


def needs_dir(root: Path) -> Path:
    """Where each run says which slides it still needs."""
    return root / "needs"


def prepare_root(folder: Path) -> Path:
    """Make and mark the cache's own folder in `folder`, or recognise the one that is there; return it.

    Raises:
        SettingsError: it cannot be used as a cache; the message says why and what to do.
    """
    root = cache_root(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _mark(root)
        for inner in (slots_dir(root), needs_dir(root)):
            inner.mkdir(mode=0o700, exist_ok=True)
        with guard(guard_path(root)):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"--wsi_cache {folder}: it cannot be used ({reason}); name a folder on a local disk that you may write to"
        ) from error
    except NotStagedError as error:
        raise SettingsError(f"--wsi_cache {folder}: {error}; look for a suspended trident process") from error
    return root


def _mark(root: Path) -> None:
    """Make the folder with its mark. The mark is made first, so a folder with anything else and no mark is not ours."""
    try:
        root.mkdir(mode=0o700)
    except FileExistsError:
        _require_ours(root)
    there = sorted(path.name for path in root.iterdir())
    if there and MARK not in there:
        raise SettingsError(
            f"--wsi_cache: {root} was not made as a cache (it holds {there[0]!r} and no {MARK}); "
            "move it away or name another folder"
        )
    if stat.S_IMODE(root.stat().st_mode) & 0o077:
        root.chmod(0o700)
    handle = os.open(root / MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(handle).st_size == 0:
            os.write(handle, _MARK_TEXT.encode())
    finally:
        os.close(handle)


def _require_ours(root: Path) -> None:
    """A folder that somebody else could have put there, in a place such as /tmp, is not trusted with slides."""
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise SettingsError(f"--wsi_cache: {root} is not a folder of this user's; move it away or name another folder")
