"""How stages look at what lies in a job directory: at one file when it counts, or at thousands together.

A stage that runs asks the disk (`OutputView`). A cohort that asks where ten thousand slides stand lists each folder
once and looks up what it has read earlier (`ListedOutputs`). Both give the same answers.
"""

from __future__ import annotations

import errno
import os
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

from trident.file_stats import StatAnswer, ask_all, stat_all
from trident.store.atomic import store_error
from trident.store.output_index import Fact, FileStamp, OutputIndex, stamp_of
from trident.store.recipes import Recipe

_F = TypeVar("_F", bound=Fact)

SETTLED_S = 2.0
"""A file that changed less than this long ago may change again without its times showing it (FAT counts in two seconds,
others in milliseconds): what is read from it is not kept."""

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP}
"""What `Path.exists` takes for a no. Any other error is for whoever reads the file to meet."""


class OutputView:
    """The files as they are on disk at the moment of each question."""

    def exists(self, path: Path) -> bool:
        """Whether the file is there; a link to nothing is not.

        Raises:
            StoreError: the system does not say, as for a name that is too long.
        """
        try:
            return path.exists()
        except OSError as error:
            raise store_error(path, error, "looked for") from error

    def recipe(self, path: Path, read: Callable[[], Recipe | None]) -> Recipe | None:
        """The recipe in a file.

        Args:
            path: of the file.
            read: gives the recipe that the file carries. Where it is not called, only `run` of the facts is known.
        """
        return read()

    def fact(self, path: Path, what: str, read: Callable[[], _F]) -> _F:
        """Something that the content of a file says.

        Args:
            path: of the file.
            what: the name of this fact.
            read: finds it out, from this file alone.
        """
        return read()


DISK = OutputView()


class ListedOutputs(OutputView):
    """The files as they were when their folders were listed, for one pass over many slides.

    What the index does not know, or knows of a file with another stamp, is read.
    """

    def __init__(self, index: OutputIndex) -> None:
        self._index = index
        self._folders: dict[str, _Folder] = {}
        self._stamps: dict[str, FileStamp | None] = {}
        self._looked_ns = time.time_ns()

    def look(self, paths: Iterable[Path]) -> None:
        """Ask for the stamps of these files together; those of the files before are forgotten."""
        wanted = list(dict.fromkeys(map(str, paths)))
        self._list({os.path.split(path)[0] for path in wanted} - self._folders.keys())
        self._looked_ns = time.time_ns()
        there = [path for path in wanted if self._may_be_there(path)]
        self._stamps = dict.fromkeys(set(wanted).difference(there))
        for path, answer in zip(there, stat_all(there), strict=True):
            self._note(path, answer)

    def knows(self, path: Path) -> bool:
        """Whether nothing has to be read to say what a file that was looked at holds: it is in the index, or absent."""
        text = str(path)
        stamp = self._stamps.get(text)
        return self._index.has(*os.path.split(text), stamp) if stamp is not None else text in self._stamps

    def exists(self, path: Path) -> bool:
        """Whether the file is there; a link to nothing is not."""
        text = str(path)
        if text not in self._stamps:
            if not self._may_be_there(text):
                return False
            self._note(text, stat_all([text])[0])
        # Where the system gave another answer than yes or no, the path itself is asked, and the caller sees the error.
        return self._stamps[text] is not None if text in self._stamps else super().exists(path)

    def recipe(self, path: Path, read: Callable[[], Recipe | None]) -> Recipe | None:
        """The recipe in a file, from the index where the file is unchanged."""
        text = str(path)
        stamp = self._stamps.get(text)
        if stamp is not None and (known := self._index.recipe(*os.path.split(text), stamp)) is not None:
            return known.recipe
        recipe = read()
        if stamp is not None and self._is_as_before(text, stamp):
            self._index.put_recipe(*os.path.split(text), stamp, recipe)
        return recipe

    def fact(self, path: Path, what: str, read: Callable[[], _F]) -> _F:
        """Something that the content of a file says, from the index where the file is unchanged."""
        text = str(path)
        stamp = self._stamps.get(text)
        if stamp is not None and (known := self._index.fact(*os.path.split(text), stamp, what)) is not None:
            return known  # type: ignore[return-value]  # of the type of the fact of that name
        value = read()
        if stamp is not None and self._is_as_before(text, stamp):
            self._index.put_fact(*os.path.split(text), stamp, what, value)
        return value

    def _list(self, folders: Collection[str]) -> None:
        for path, folder in zip(folders, ask_all(_Folder, list(folders)), strict=True):
            self._folders[path] = folder
            if folder.names is not None:
                self._index.forget_all_but(path, folder.names)

    def _may_be_there(self, path: str) -> bool:
        parent, name = os.path.split(path)
        if parent not in self._folders:
            self._list([parent])
        return self._folders[parent].may_have(name)

    def _note(self, path: str, answer: StatAnswer) -> None:
        if isinstance(answer, os.stat_result):
            self._stamps[path] = stamp_of(answer)
        elif isinstance(answer, ValueError) or answer.errno in _NOT_THERE:
            self._stamps[path] = None

    def _is_as_before(self, path: str, stamp: FileStamp) -> bool:
        """Whether what was just read belongs to `stamp`, and a later change will show in another one."""
        _, modified_ns, changed_ns, _ = stamp
        if max(modified_ns, changed_ns) > self._looked_ns - SETTLED_S * 1e9:
            return False
        (answer,) = stat_all([path])
        return isinstance(answer, os.stat_result) and stamp_of(answer) == stamp


class _Folder:
    """The names in one folder."""

    def __init__(self, path: str) -> None:
        self.names: frozenset[str] | None
        """None where the folder cannot be listed, though its files may be read."""
        try:
            with os.scandir(path) as entries:
                self.names = frozenset(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            self.names = frozenset()
        except OSError:
            self.names = None
        self._folded: frozenset[str] | None = None

    def may_have(self, name: str) -> bool:
        """Whether the folder has a file of this name, also where the file system takes `A` and `a` for one."""
        if self.names is None or name in self.names:
            return True
        if self._folded is None:
            self._folded = frozenset(map(_fold, self.names))
        return _fold(name) in self._folded


def _fold(name: str) -> str:
    """The same for all names that some file system takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
