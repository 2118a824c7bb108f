"""DICOM whole-slide images: several files of one series, in one folder, are one slide.

OpenSlide reads them: given one file it finds the others of its series in the same folder by itself.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from trident.errors import UnreadableSlideError
from trident.file_stats import ask_all

logger = logging.getLogger(__name__)

DICOM_EXTENSION = ".dcm"

_SERIES_INSTANCE_UID = 0x0020_000E
_SHOWN = 3
_MAGIC_AT, _MAGIC = 128, b"DICM"


def series_uid(path: str | Path) -> str | None:
    """The Series Instance UID of a DICOM file, or None where it cannot be read; never raises for a bad file."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial

    try:
        with Path(path).open("rb") as file:
            found = read_partial(
                file, lambda tag, _vr, _length: int(tag) > _SERIES_INSTANCE_UID, specific_tags=[_SERIES_INSTANCE_UID]
            )
        return str(found.SeriesInstanceUID) or None
    except (
        *(InvalidDicomError, AttributeError, EOFError, LookupError, OSError, OverflowError, RecursionError),
        *(NotImplementedError, TypeError, ValueError, struct.error),
    ) as error:
        logger.debug("%s: no DICOM series: %s", path, error)
        return None


def by_series(paths: Sequence[str]) -> list[list[str]]:
    """Files of one folder by their series, in the order given; a file without a readable series is by itself."""
    series, unreadable = sorted_out(paths)
    return [*series, *([path] for path in unreadable)]


def sorted_out(paths: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Files of one folder: the series with their files, and the files without a readable series."""
    groups: dict[str, list[str]] = {}
    unreadable = []
    for path, uid in zip(paths, ask_all(series_uid, paths), strict=True):
        if uid is None:
            unreadable.append(path)
        else:
            groups.setdefault(uid, []).append(path)
    return list(groups.values()), unreadable


def dicom_files(folder: str | Path) -> list[str]:
    """Paths of the DICOM files directly in a folder, sorted: by their extension or, where none has it, by their magic.

    Raises:
        OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        paths = sorted(entry.path for entry in entries if not entry.name.startswith(".") and entry.is_file())
    named = [path for path in paths if path.lower().endswith(DICOM_EXTENSION)]
    return named or [path for path in paths if _has_magic(path)]


def openable_file(path: Path) -> Path:
    """The file to give OpenSlide: the path itself or, for a folder with one DICOM series, a file of that series.

    Raises:
        UnreadableSlideError: a folder with no DICOM file, or with several series.
    """
    return file_and_notes(path)[0]


def file_and_notes(path: Path) -> tuple[Path, list[str]]:
    """See `openable_file`; with a note on files of a folder that belong to no series.

    Raises:
        UnreadableSlideError: a folder with no DICOM file, or with several series.
    """
    if not path.is_dir():
        return path, []
    try:
        series, unreadable = sorted_out(dicom_files(path))
    except OSError as error:
        raise UnreadableSlideError(path, f"the folder cannot be listed ({error.strerror})") from error
    if not series and not unreadable:
        raise UnreadableSlideError(path, "it is a directory, not a slide file; take it out of the list of slides")
    if len(series) > 1:
        raise UnreadableSlideError(
            path, f"the folder holds {len(series)} DICOM series, not one; name a file of the one that you mean"
        )
    if not series:
        return Path(unreadable[0]), []  # OpenSlide says what is wrong with it
    return Path(series[0][0]), [note_of_left_out(unreadable)] if unreadable else []


def note_of_left_out(unreadable: Sequence[str]) -> str:
    """What to say of files that lie among those of a series and have no readable DICOM header."""
    shown = ", ".join(Path(path).name for path in unreadable[:_SHOWN])
    more = f" and {len(unreadable) - _SHOWN} more" if len(unreadable) > _SHOWN else ""
    return f"{shown}{more}: no readable DICOM header, left out of the slide; fetch it again if it is a part"


def _has_magic(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            file.seek(_MAGIC_AT)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # not readable: whoever opens it says so
