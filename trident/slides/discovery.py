"""Which slides a run is about: a folder's files by extension, or the rows of a CSV. No slide is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import DiscoveryError
from trident.slides.registry import SLIDE_EXTENSIONS, slide_name
from trident.slides.slide_list import listed_slides


@dataclass(frozen=True)
class SlideSource:
    """One slide to process, as found on disk; it has not been opened."""

    path: Path
    """Absolute; links are not resolved."""
    rel_path: str
    """Relative to the slide folder, with forward slashes."""
    name: str
    """File name without its extension; names every output of this slide."""
    mpp: float | None
    """µm/px from the CSV, where it gives one."""
    size_bytes: int
    """0 where the size is not known (a link to nothing)."""


def find_slides(
    wsi_dir: Path,
    *,
    extensions: Sequence[str] | None = None,
    search_nested: bool = False,
    custom_list: Path | None = None,
) -> list[SlideSource]:
    """The slides under `wsi_dir`, sorted by their relative path.

    A file counts by its extension alone: one that turns out to be no slide fails when it is opened, with a line of its
    own. Hidden files are left out.

    Args:
        wsi_dir: folder of slides.
        extensions: extensions to take, with or without the dot, in any case; None takes `SLIDE_EXTENSIONS`.
        search_nested: look into subfolders too.
        custom_list: CSV with a column `wsi` (path relative to `wsi_dir`) and, optionally, `mpp` (µm/px, may be blank).
            It alone then says which slides to take, in subfolders too; `extensions`, where given, must allow them.

    Raises:
        DiscoveryError: no such folder, no slide found, a bad CSV, or two slides with one name.
    """
    root = Path(os.path.abspath(wsi_dir))  # noqa: PTH100 - Path.resolve() would follow links
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DiscoveryError(f"{wsi_dir}: the slide folder {problem}; check --wsi_dir")
    suffixes = _normalised(extensions)
    if custom_list is not None:
        slides = [
            SlideSource(row.path, row.rel_path, slide_name(row.rel_path), row.mpp, row.size_bytes)
            for row in listed_slides(custom_list, root, None if extensions is None else suffixes)
        ]
    else:
        slides = list(_scan(root, suffixes, search_nested))
        if not slides:
            nested = "" if search_nested else "add --search_nested for slides in subfolders, or "
            raise DiscoveryError(
                f"{wsi_dir}: no slide found with extension {', '.join(suffixes)}; {nested}name others with --wsi_ext"
            )
    slides.sort(key=lambda slide: slide.rel_path)
    _require_distinct_names(slides)
    return slides


def _normalised(extensions: Sequence[str] | None) -> tuple[str, ...]:
    if extensions is None:
        return tuple(SLIDE_EXTENSIONS)
    cleaned = ["." + extension.strip().lower().lstrip(".") for extension in extensions]
    if not cleaned or "." in cleaned:
        raise DiscoveryError("--wsi_ext names no extension; give for example --wsi_ext .svs .tiff")
    return tuple(dict.fromkeys(cleaned))


def _scan(root: Path, suffixes: tuple[str, ...], search_nested: bool) -> Iterator[SlideSource]:
    # A folder can be reached twice through links, and a link can lead to a folder above it.
    seen = {_identity(root)}
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DiscoveryError(f"{folder}: the folder cannot be listed ({error.strerror})") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            rel_path = prefix + entry.name
            if entry.name.lower().endswith(suffixes):
                yield SlideSource(Path(entry.path), rel_path, slide_name(entry.name), None, _size_bytes(entry))
            elif search_nested and entry.is_dir():
                path = Path(entry.path)
                identity = _identity(path)
                if identity not in seen:
                    seen.add(identity)
                    pending.append((path, rel_path + "/"))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _size_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0  # a link to nothing: it is listed, and its opening says what is wrong


def _require_distinct_names(slides: Sequence[SlideSource]) -> None:
    by_name: dict[str, list[str]] = {}
    for slide in slides:
        by_name.setdefault(slide.name, []).append(slide.rel_path)
    clashes = {name: paths for name, paths in by_name.items() if len(paths) > 1}
    if clashes:
        shown = "; ".join(f"{name}: {', '.join(paths)}" for name, paths in list(clashes.items())[:5])
        more = f"; and {len(clashes) - 5} names more" if len(clashes) > 5 else ""
        raise DiscoveryError(
            f"two slides would write the same outputs, because outputs are named after the file without its folder and "
            f"extension ({shown}{more}); rename one, or run them with separate job directories"
        )
