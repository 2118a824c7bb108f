"""Which slides a run is about: a folder's files by extension, or the rows of a CSV. No pixel is read."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import DiscoveryError
from trident.file_stats import ask_all, stat_all
from trident.slides.dicom import DICOM_EXTENSION, note_of_left_out, sorted_out
from trident.slides.folders import list_folder, source_bytes, total_bytes
from trident.slides.registry import SLIDE_EXTENSIONS, slide_name
from trident.slides.slide_list import listed_slides

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideSource:
    """One slide to process, as found on disk; it has not been opened."""

    path: Path
    """Absolute; links are not resolved. A file, or a folder that is one slide."""
    rel_path: str
    """Relative to the slide folder, with forward slashes."""
    name: str
    """File name without its extension (of a folder other than `.zarr` all of it); names every output of this slide."""
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
    own. Hidden files are left out, and so are the images that a `.vms` file is made of. An OME-Zarr folder is a slide,
    and nothing inside it is. DICOM files of one series in one folder are one slide, for which their headers are read:
    a folder below `wsi_dir` whose readable files are one series, and which holds no other slide, is that slide and
    names it, elsewhere the first file does. With `search_nested` a single file in a folder is a slide like any other
    file. What is left out is told in a warning.

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
            SlideSource(row.path, row.rel_path, row.name, row.mpp, row.size_bytes)
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
    singles: list[tuple[str, str]] = []  # (path, path relative to the root)
    series: list[tuple[str, str, list[str]]] = []  # the same and the files, of each slide of several
    for path, prefix, names in _folders(root, suffixes, search_nested):
        grouped = _Grouped(names)
        if DICOM_EXTENSION in suffixes:
            grouped = _grouped_dicom(path, prefix, names, search_nested=search_nested)
        if prefix and not search_nested:
            # This folder was looked at only because it may be a slide.
            taken = [slide for slide in grouped.several if slide[0] == path]
            if not taken:
                _tell_left_out(path, names, grouped.n_series)
            series += taken
            continue
        series += grouped.several
        singles += [(os.path.join(path, name), prefix + name) for name in grouped.rest]  # noqa: PTH118
    for (path, rel_path), answer in zip(singles, stat_all(path for path, _ in singles), strict=True):
        is_folder, size = False, 0  # a link to nothing is listed, and its opening says what is wrong
        if isinstance(answer, os.stat_result):
            is_folder = stat.S_ISDIR(answer.st_mode)
            # A file among these is a slide by itself, also one of DICOM.
            size = source_bytes(path, answer) if is_folder else answer.st_size
        yield SlideSource(Path(path), rel_path, slide_name(rel_path, is_folder=is_folder), None, size)
    for path, rel_path, files in series:
        name = slide_name(rel_path, is_folder=path != files[0])
        yield SlideSource(Path(path), rel_path, name, None, total_bytes(files))


def _folders(root: Path, suffixes: tuple[str, ...], search_nested: bool) -> Iterator[tuple[str, str, list[str]]]:
    """(path, its prefix of relative paths, names of slides in it) of each folder to search.

    Without `search_nested` those directly below the root are among them where DICOM is wanted.
    """
    # A folder can be reached twice through links, and a link can lead to a folder above it.
    seen: set[tuple[int, int]] = set()
    level = [(str(root), "")]
    while level:
        # All folders of one depth together: some archives keep each slide in a folder of its own.
        listed = ask_all(lambda at: list_folder(at[0], suffixes, must_list=search_nested or not at[1]), level)
        deeper: list[tuple[str, str]] = []
        for (path, prefix), found in zip(level, listed, strict=True):
            if found is None or found.identity in seen:
                continue
            seen.add(found.identity)
            yield path, prefix, found.slides
            if search_nested or (not prefix and DICOM_EXTENSION in suffixes):
                deeper += [(os.path.join(path, name), f"{prefix}{name}/") for name in found.folders]  # noqa: PTH118
        level = deeper


@dataclass(frozen=True)
class _Grouped:
    """The slides of one folder, those of DICOM series apart from the others."""

    rest: Sequence[str]
    """Names of the files that are a slide each."""
    several: Sequence[tuple[str, str, list[str]]] = ()
    """(path, path relative to the root, files) of each slide of several files, or that is the folder itself."""
    n_series: int = 0
    """DICOM series, where the headers were read."""


def _grouped_dicom(folder: str, prefix: str, names: list[str], *, search_nested: bool) -> _Grouped:
    """Files of one series are one slide.

    It is the folder itself where it lies below the root and holds nothing else, but for files that cannot be read,
    which are told of; otherwise the first of the files. A file alone needs no look into it where it counts anyway.
    """
    dicom = _dicom_of(names)
    if not dicom or (len(dicom) < 2 and (not prefix or search_nested)):
        return _Grouped(names)
    series, unreadable = sorted_out([os.path.join(folder, name) for name in dicom])  # noqa: PTH118
    if len(series) == 1 and len(dicom) == len(names) and prefix:
        if unreadable:
            logger.warning("%s: %s", folder, note_of_left_out(unreadable))
        return _Grouped([], [(folder, prefix[:-1], series[0])], len(series))
    several = [group for group in series if len(group) > 1]
    merged = {Path(path).name for group in several for path in group}
    rest = [name for name in names if name not in merged]
    return _Grouped(rest, [(group[0], prefix + Path(group[0]).name, group) for group in several], len(series))


def _dicom_of(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(DICOM_EXTENSION)]


def _tell_left_out(folder: str, names: Sequence[str], n_series: int) -> None:
    """Warn of a folder with DICOM files that is no slide by itself."""
    dicom = _dicom_of(names)
    if not dicom:
        return
    others = [name for name in names if name not in dicom]
    if others:
        reason = f"it holds other slides as well ({others[0]})"
    else:
        reason = f"it holds {n_series} DICOM series" if n_series else "none of its .dcm files has a readable header"
    logger.warning("%s: left out, because %s; --search_nested takes its files one by one", folder, reason)


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
