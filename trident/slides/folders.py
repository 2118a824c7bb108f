"""What a folder on disk holds: slides, companions of slides, and folders that are slides themselves."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import DiscoveryError
from trident.file_stats import stat_all
from trident.slides.dicom import DICOM_EXTENSION, by_series, dicom_files, sorted_out
from trident.slides.registry import slide_folder

_KEY_FILES = (".vms", ".vmu")
"""Hamamatsu's index files; a `.vms` names JPEG images, its tiles, which lie beside it."""
_KEY_FILE_BYTES = 1 << 18
_NAMED_FILE = re.compile(rb"^[^=\r\n]*=[ \t]*([^\r\n]*\.(?:jpe?g|tiff?))[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


@dataclass(frozen=True)
class Folder:
    """What a folder holds; hidden entries left out, names sorted."""

    identity: tuple[int, int]
    """Tells it from others, however it was reached."""
    slides: list[str]
    folders: list[str]
    """Folders to look into: not those that are slides by their name."""


def list_folder(path: str, suffixes: Sequence[str], *, must_list: bool = True) -> Folder | None:
    """Look into one folder.

    Args:
        path: the folder.
        suffixes: endings of slides, lower case with the dot.
        must_list: False gives None for a folder that cannot be listed.

    Raises:
        DiscoveryError: with `must_list`, it cannot be listed.
    """
    endings = tuple(suffixes)
    slides, folders = [], []
    try:
        status = os.stat(path)  # noqa: PTH116
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(endings):
                    slides.append(entry.name)
                elif slide_folder(Path(entry.name)) is None and entry.is_dir():
                    folders.append(entry.name)
    except OSError as error:
        if not must_list:
            return None
        raise DiscoveryError(f"{path}: the folder cannot be listed ({error.strerror})") from error
    companions = _companions(path, slides)
    return Folder((status.st_dev, status.st_ino), sorted(set(slides) - companions), sorted(folders))


def _companions(folder: str, names: Sequence[str]) -> set[str]:
    """Images that key files of the folder name: parts of a slide, not slides."""
    found: set[str] = set()
    for name in names:
        if not name.lower().endswith(_KEY_FILES):
            continue
        try:
            with Path(folder, name).open("rb") as file:
                text = file.read(_KEY_FILE_BYTES)
        except OSError:
            continue  # the opening of this slide says what is wrong
        found.update(os.fsdecode(named) for named in _NAMED_FILE.findall(text))
    return found


def source_bytes(path: str | Path, status: os.stat_result) -> int:
    """Bytes by which a changed slide is noticed: see `source_sizes`.

    Args:
        path: the slide.
        status: what the system says about it.
    """
    return source_sizes([(str(path), status)])[0]


def source_sizes(slides: Sequence[tuple[str, os.stat_result]]) -> list[int]:
    """Bytes by which changes of slides are noticed, in their order: of the file, or of all files that the slide is.

    A DICOM slide has the bytes of its series, whether its folder or any of its files is named. Of an OME-Zarr folder
    it is the metadata, down to its levels: counting a hundred thousand chunks costs too much.

    Args:
        slides: path of each, and what the system says about it.
    """
    series: dict[str, dict[str, list[str]]] = {}  # the headers of a folder are read once, however many of it are asked
    sizes = []
    for path, status in slides:
        if stat.S_ISDIR(status.st_mode):
            try:
                sizes.append(_folder_bytes(path))
            except OSError:
                sizes.append(0)  # it cannot be listed: its opening says what is wrong
            continue
        files = []
        if path.lower().endswith(DICOM_EXTENSION):
            folder = os.path.dirname(path)  # noqa: PTH120
            if folder not in series:
                series[folder] = _series_by_file(folder)
            files = series[folder].get(path, [])
        sizes.append(total_bytes(files) if len(files) > 1 else status.st_size)
    return sizes


def total_bytes(files: Sequence[str]) -> int:
    """Bytes of files together; one that is not there has none."""
    return sum(answer.st_size for answer in stat_all(files) if isinstance(answer, os.stat_result))


def _series_by_file(folder: str) -> dict[str, list[str]]:
    """For each DICOM file of a folder, the files of its series."""
    try:
        groups = by_series(dicom_files(folder))
    except OSError:
        return {}  # a folder whose files can be read by name only: each is by itself
    return {path: group for group in groups for path in group}


def _folder_bytes(path: str) -> int:
    if slide_folder(Path(path)) is None and (files := dicom_files(path)):
        series, _ = sorted_out(files)
        return total_bytes(series[0] if len(series) == 1 else files)
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file():
                total += entry.stat().st_size
            elif entry.is_dir():
                total += sum(_file_bytes(Path(entry.path, name)) for name in _ZARR_METADATA)
    return total


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # not there: Zarr's formats have different ones
