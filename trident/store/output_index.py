"""What reading the outputs of a job gave last time, so that ten thousand unchanged files need not be read again.

One file in the job's private folder: for each output its stamp (size, times, inode), its recipe and the digest of its
content. It is a cache. A file whose stamp differs is read anew; an index that is lost, damaged, of another version or
older than another run's costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from trident import __version__
from trident.errors import StoreError
from trident.store.atomic import write_bytes
from trident.store.recipes import Recipe

logger = logging.getLogger(__name__)

FileStamp: TypeAlias = "tuple[int, int, int, int]"
"""(bytes, time of the last change of the content in ns, that of content or attributes in ns, inode)"""

Fact: TypeAlias = "str | list[str]"

_FORMAT = f"trident output index 1, program {__version__}"
"""Begins the file. What reading a file gives may change with the program, so another version's index is not used."""

_UNREAD, _NO_RECIPE = -2, -1


def stamp_of(status: os.stat_result) -> FileStamp:
    """What tells an untouched file from a changed one.

    The second time cannot be set by programs (`touch -r`, `rsync -t`), so a content that changed under its old date
    shows too.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True)
class KnownRecipe:
    """What the index says about the recipe of a file: there is one, or there is none."""

    recipe: Recipe | None


@dataclass
class _Entry:
    """One file."""

    __slots__ = ("facts", "head", "inputs", "stamp")

    stamp: FileStamp
    head: int
    """Position of stage, settings and run in the table that all files share; or `_UNREAD`, `_NO_RECIPE`."""
    inputs: dict[str, str]
    facts: dict[str, Fact]


@dataclass
class OutputIndex:
    """The index of one job directory, in memory; for one process; its threads may note what they read.

    Attributes:
        path: the file.
        job_dir: folders in it are noted relative to it, so that it may be moved.
    """

    path: Path
    job_dir: Path
    _folders: dict[str, dict[str, _Entry]] = field(default_factory=dict)
    _heads: list[str] = field(default_factory=list)
    """(stage, settings, run) as JSON, each once: they are the same for thousands of slides."""
    _is_changed: bool = False

    def __post_init__(self) -> None:
        self._numbers = {head: number for number, head in enumerate(self._heads)}
        self._recipes: dict[int, Recipe] = {}
        self._keys: dict[str, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, private_dir: Path) -> OutputIndex:
        """The index in the private folder of a job directory; an empty one where there is none that can be used."""
        path, job_dir = private_dir / "output_index", private_dir.parent
        try:
            head, _, body = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return cls(path, job_dir)
        except OSError as error:
            logger.debug("%s: not used: %s", path, error)
            return cls(path, job_dir)
        if head != _first_line(body):
            logger.debug("%s: not used: it is damaged, or of another version", path)
            return cls(path, job_dir)
        content = json.loads(body)
        folders = {
            folder: {
                name: _Entry((size, mtime, ctime, inode), head, inputs, facts)
                for name, (size, mtime, ctime, inode, head, inputs, facts) in entries.items()
            }
            for folder, entries in content["folders"].items()
        }
        return cls(path, job_dir, folders, content["heads"])

    def has(self, folder: str, name: str, stamp: FileStamp) -> bool:
        """Whether a file was read under this stamp."""
        return self._find(folder, name, stamp) is not None

    def recipe(self, folder: str, name: str, stamp: FileStamp) -> KnownRecipe | None:
        """The recipe of a file as it was read under this stamp (of its facts only `run`); None where it was not."""
        entry = self._find(folder, name, stamp)
        if entry is None or entry.head == _UNREAD:
            return None
        if entry.head == _NO_RECIPE:
            return KnownRecipe(None)
        shared = self._recipes.get(entry.head)
        if shared is None:
            stage, settings, run = json.loads(self._heads[entry.head])
            shared = self._recipes[entry.head] = Recipe(stage, settings, facts={"run": run})
        return KnownRecipe(Recipe(shared.stage, shared.settings, entry.inputs, shared.facts))

    def put_recipe(self, folder: str, name: str, stamp: FileStamp, recipe: Recipe | None) -> None:
        """Note the recipe that was read from a file which had this stamp before and after."""
        with self._lock:
            entry = self._entry(folder, name, stamp)
            if recipe is None:
                entry.head = _NO_RECIPE
                return
            head = json.dumps([recipe.stage, recipe.settings, recipe.facts.get("run")])
            number = self._numbers.setdefault(head, len(self._heads))
            if number == len(self._heads):
                self._heads.append(head)
            entry.head, entry.inputs = number, dict(recipe.inputs)

    def fact(self, folder: str, name: str, stamp: FileStamp, what: str) -> Fact | None:
        """What was found out from the content of a file under this stamp; None where nothing was."""
        entry = self._find(folder, name, stamp)
        return None if entry is None else entry.facts.get(what)

    def put_fact(self, folder: str, name: str, stamp: FileStamp, what: str, value: Fact) -> None:
        """Note what was found out from a file which had this stamp before and after."""
        with self._lock:
            self._entry(folder, name, stamp).facts[what] = value

    def forget_all_but(self, folder: str, names: Collection[str]) -> None:
        """Drop the files of a folder that are gone.

        Args:
            names: those that are there.
        """
        entries = self._folders.get(self._key(folder), {})
        for name in [name for name in entries if name not in names]:
            del entries[name]
            self._is_changed = True

    def save(self) -> None:
        """Write the index, where it has changed. A failure is told and costs only time."""
        if not self._is_changed:
            return
        folders = {
            folder: {name: [*entry.stamp, entry.head, entry.inputs, entry.facts] for name, entry in entries.items()}
            for folder, entries in self._folders.items()
            if entries and os.path.isdir(os.path.join(self.job_dir, folder))  # noqa: PTH112, PTH118
        }
        try:
            body = json.dumps({"heads": self._heads, "folders": folders}, separators=(",", ":")).encode("ascii")
            write_bytes(self.path, _first_line(body) + b"\n" + body)
        except (StoreError, ValueError, TypeError, RecursionError) as error:
            logger.warning("the list of finished outputs is not kept, so the next run reads them again: %s", error)
            return
        self._is_changed = False

    def _find(self, folder: str, name: str, stamp: FileStamp) -> _Entry | None:
        entry = self._folders.get(self._key(folder), {}).get(name)
        return entry if entry is not None and entry.stamp == stamp else None

    def _entry(self, folder: str, name: str, stamp: FileStamp) -> _Entry:
        self._is_changed = True
        entries = self._folders.setdefault(self._key(folder), {})
        entry = entries.get(name)
        if entry is None or entry.stamp != stamp:
            entry = entries[name] = _Entry(stamp, _UNREAD, {}, {})
        return entry

    def _key(self, folder: str) -> str:
        key = self._keys.get(folder)
        if key is None:
            inside = os.path.commonpath([self.job_dir, folder]) == str(self.job_dir)
            key = self._keys[folder] = os.path.relpath(folder, self.job_dir) if inside else folder
        return key


def _first_line(body: bytes) -> bytes:
    """Format, program and checksum: a file with any other first line is no index of ours, or a damaged one."""
    return f"{_FORMAT}, sha256 {hashlib.sha256(body).hexdigest()}".encode("ascii")


__all__ = ["Fact", "FileStamp", "KnownRecipe", "OutputIndex", "stamp_of"]
