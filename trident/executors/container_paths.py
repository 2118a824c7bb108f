"""Folders that a container must be given so that paths over links end there where they end on this host.

In a folder that it was given, a container follows links, as this host does. Outside of these it has nothing of this
host: where a path leads over a link here, there are plain folders there, and `..` leads back to where it came from. So
what lies at the end of such a path on this host is given to the container under the path by which it gets there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_MOST_LINKS = 40
"""As many links as the kernel follows in one path."""
_TOP = Path("/")


@dataclass(frozen=True)
class Given:
    """A file or folder that a container is given."""

    path: Path
    """Where it is in the container."""
    source: Path
    """Where it lies on this host: the same path, unless that leads elsewhere here."""

    @classmethod
    def of(cls, path: Path, real: Path) -> Given:
        """What is `real`, a path without links, on this host."""
        return cls(path, path if _resolved(path) == real else real)


def given_file(path: Path) -> Given:
    """A file by itself, under the path that a container without any link looks up."""
    return Given.of(Path(os.path.normpath(path)), _resolved(path))


def given_folders(root: Path, ways: Iterable[Collection[str]], known: Collection[Path] = ()) -> Iterator[Given]:
    """`root`, and every folder outside of it that a link on a way down from it leads to.

    Args:
        root: an absolute path.
        ways: the names on the way from `root` to a file, for each file.
        known: folders that the container is given anyway, under their own paths.
    """
    start = Given(root, _resolved(root))
    for start in _walk(Given(_TOP, _TOP), root.parts[1:], True, known):
        yield Given.of(start.path, start.source)
    if root == _TOP:
        yield start
    for way in ways:
        for folder in _walk(start, way, False, [*known, start.path]):
            yield Given.of(folder.path, folder.source)


def _walk(start: Given, names: Collection[str], is_link: bool, known: Collection[Path]) -> Iterator[Given]:
    """Go down from a folder, and say at the end of each link which folder that is; sources are without links.

    Args:
        start: where to begin.
        names: of the folders on the way, and of the file.
        is_link: whether these are what a link says, so that their end is told too.
        known: paths below which the container has what is here.
    """
    path, real = start.path, start.source
    known = list(known)
    rest = list(names)
    end: int | None = 0 if is_link else None
    """How many names are left where the present link ends."""
    n_links = 0
    while rest:
        name = rest.pop(0)
        step = real / name
        is_inside = any(path == folder or folder in path.parents for folder in known)
        if is_inside and name != ".." and n_links < _MOST_LINKS and os.path.islink(step):  # noqa: PTH114 - never raises
            n_links += 1
            end = len(rest)
            target = step.readlink()
            if target.is_absolute():
                path = real = _TOP
            rest[:0] = target.parts[target.is_absolute() :]
            continue
        is_end = not is_inside if end is None else len(rest) <= end
        if name == "..":
            path, real = path.parent, real.parent
        elif not is_end or os.path.isdir(step):  # noqa: PTH112 - never raises
            path, real = path / name, step if is_inside else _resolved(step)
        else:
            rest.insert(0, name)  # a file, or a link to one: its folder is given, and then it is inside
        if is_end:
            if not os.path.isdir(real):  # noqa: PTH112 - the link leads to nothing, as opening the slide will say
                return
            yield Given(path, real)
            known.append(path)
            end = None


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve() fails for links in a circle
