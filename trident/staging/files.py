"""Which files make up a slide: one, or one with companions that its reader finds by name or by content."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from trident.file_stats import ask_all, stat_all
from trident.slides.dicom import DICOM_EXTENSION, series_uid
from trident.slides.registry import slide_extension, slide_folder
from trident.staging.problems import NotStagedError

HIDDEN_PREFIX = ".trident-slide-cache-"
"""Begins the name of every cache folder: discovery leaves hidden folders out, and no cache is copied into itself."""

_WITNESSES = 64
_MAX_INDEX_BYTES = 1 << 20
_HAMAMATSU_KEYS = re.compile(r"^(ImageFile(\(.*\))?|MapFile|OptimisationFile|MacroImage)$", re.IGNORECASE)
"""Keys of `.vms` and `.vmu` whose values name files (OpenSlide's description of the Hamamatsu format)."""


@dataclass(frozen=True)
class SourceFile:
    """One file as it lies on the slow storage."""

    rel_path: str
    """Relative to the folder of the slide, with forward slashes."""
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class SlideFiles:
    """All files of one slide, those nearest to the slide's own folder first."""

    folder: Path
    """The folder in which the slide lies."""
    name: str
    """File or folder name of the slide: what a reader is given."""
    files: tuple[SourceFile, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def witnesses(self) -> tuple[SourceFile, ...]:
        """The few files by whose size and time a changed slide is recognised.

        Looking at all hundred thousand chunks of a Zarr store would take longer than a stage does.
        """
        return self.files[:_WITNESSES]


def slide_files(source: Path) -> SlideFiles:
    """The files of the slide at `source`; no pixel is read.

    Args:
        source: absolute path of a slide file, or of a folder that is a slide (OME-Zarr, a DICOM series).

    Raises:
        NotStagedError: its files cannot be told, or are not plain files in the slide's own folder.
        OSError: a file is missing or cannot be looked at.
    """
    extension = slide_extension(source).lower()
    folder_slide = slide_folder(source)
    if folder_slide == source:
        paths: Iterable[str] = _tree(source.parent, source.name)
    elif folder_slide is not None:
        raise NotStagedError(f"{source}: an image inside a folder of several")
    elif source.is_dir():
        paths = [f"{source.name}/{name}" for name in _series_in_folder(source)]
    elif extension == ".mrxs":
        companion = source.with_suffix("")
        paths = [source.name, *(_tree(source.parent, companion.name) if companion.is_dir() else ())]
    elif extension in {".vms", ".vmu"}:
        paths = [source.name, *_named_in_index(source)]
    elif extension == DICOM_EXTENSION:
        paths = [source.name, *_rest_of_series(source)]
    else:
        paths = [source.name]
    files = _look_at(source.parent, list(dict.fromkeys(paths)))
    files.sort(key=lambda file: (file.rel_path.count("/"), file.rel_path != source.name, file.rel_path))
    return SlideFiles(source.parent, source.name, tuple(files))


def is_unchanged(folder: Path, witnesses: Sequence[SourceFile]) -> bool:
    """Whether files below `folder` are still of the same size and time.

    Raises:
        OSError: one of them cannot be looked at.
    """
    for witness, answer in zip(witnesses, _ask(folder, [file.rel_path for file in witnesses]), strict=True):
        if (answer.st_size, answer.st_mtime_ns) != (witness.size_bytes, witness.mtime_ns):
            return False
    return True


def _look_at(folder: Path, rel_paths: Sequence[str]) -> list[SourceFile]:
    files = []
    for rel_path, answer in zip(rel_paths, _ask(folder, rel_paths), strict=True):
        if not stat.S_ISREG(answer.st_mode):
            raise NotStagedError(f"{folder / rel_path}: not a plain file")
        files.append(SourceFile(rel_path, answer.st_size, answer.st_mtime_ns))
    return files


def _ask(folder: Path, rel_paths: Sequence[str]) -> Iterator[os.stat_result]:
    for rel_path, answer in zip(rel_paths, stat_all(f"{folder}/{path}" for path in rel_paths), strict=True):
        if isinstance(answer, ValueError):
            raise NotStagedError(f"{folder / rel_path}: {answer}")
        if isinstance(answer, OSError):
            raise answer
        yield answer


def _tree(parent: Path, name: str) -> Iterator[str]:
    """Relative paths of everything below the folder `name`."""
    pending = [PurePosixPath(name)]
    while pending:
        folder = pending.pop()
        with os.scandir(parent / folder) as entries:
            for entry in entries:
                if entry.name.startswith(HIDDEN_PREFIX):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(folder / entry.name)
                elif entry.is_symlink() and entry.is_dir():
                    raise NotStagedError(f"{entry.path}: a link to a folder, which may lead in a circle")
                else:
                    yield str(folder / entry.name)


def _named_in_index(source: Path) -> Iterator[str]:
    """File names in the index file of a Hamamatsu slide."""
    with source.open("rb") as file:
        text = file.read(_MAX_INDEX_BYTES + 1)
    if len(text) > _MAX_INDEX_BYTES:
        raise NotStagedError(f"{source}: too large for an index of a slide")
    for line in text.splitlines():
        # Any bytes may stand in a file name; this is how Python itself spells such a name.
        key, _, value = os.fsdecode(line).partition("=")
        name = value.strip()
        if not _HAMAMATSU_KEYS.match(key.strip()) or not name:
            continue
        if "/" in name or "\\" in name or name in {".", ".."} or "\0" in name:
            raise NotStagedError(f"{source}: it names a file in another folder ({name!r})")
        if (source.parent / name).exists():
            yield name


def _rest_of_series(source: Path) -> list[str]:
    """Names of the other files of a DICOM series: OpenSlide takes all that lie in the same folder."""
    modified_ns = source.parent.stat().st_mtime_ns
    source.stat()  # an absent one is said to be absent
    in_folder = _series_in(source.parent, modified_ns)
    series = in_folder.get(source.name)
    if series is None:
        raise NotStagedError(f"{source}: not a readable DICOM file")
    return [name for name, other in in_folder.items() if other == series and name != source.name]


def _series_in_folder(folder: Path) -> list[str]:
    """Names of the DICOM files in a folder that is a slide."""
    names = list(_series_in(folder, folder.stat().st_mtime_ns))
    if not names:
        raise NotStagedError(f"{folder}: a folder without a DICOM file")
    return names


@lru_cache(maxsize=4)
def _series_in(folder: Path, mtime_ns: int) -> dict[str, str]:
    """File name -> series UID of the DICOM files in a folder, as of its time of change `mtime_ns`."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    found = ask_all(series_uid, [f"{folder}/{name}" for name in names])
    return {name: uid for name, uid in zip(names, found, strict=True) if uid is not None}
