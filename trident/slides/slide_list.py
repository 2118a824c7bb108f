"""The CSV of `--custom_list_of_wsis`: which slides to take, and their µm/px where the files do not say."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import DiscoveryError
from trident.file_stats import StatAnswer, stat_all
from trident.slides.folders import source_sizes
from trident.slides.metadata import positive_number
from trident.slides.registry import slide_name

_SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class ListedSlide:
    """One row of the list, checked against the disk."""

    path: Path
    rel_path: str
    name: str
    mpp: float | None
    size_bytes: int


@dataclass(frozen=True)
class _Checked:
    """One row whose file is there."""

    path: str
    rel_path: str
    mpp: float | None
    status: os.stat_result

    def listed(self, size_bytes: int) -> ListedSlide:
        name = slide_name(self.rel_path, is_folder=stat.S_ISDIR(self.status.st_mode))
        return ListedSlide(Path(self.path), self.rel_path, name, self.mpp, size_bytes)


class _RowError(Exception):
    """What is wrong with one row."""


def listed_slides(csv_path: Path, root: Path, suffixes: Sequence[str] | None) -> list[ListedSlide]:
    """The slides that a CSV names, in its order.

    Args:
        csv_path: UTF-8, comma-separated, with a header; column `wsi`, optionally `mpp`, others are ignored.
        root: absolute slide folder that the paths are relative to.
        suffixes: allowed extensions, lower case with the dot; None allows every one.

    Raises:
        DiscoveryError: unreadable or empty CSV, no `wsi` column, or wrong rows, each with its line number.
    """
    slides: list[_Checked] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    rows = [(line, _as_on_disk(wsi, root), mpp) for line, wsi, mpp in _rows(csv_path)]
    on_disk = _look_at([wsi for _, wsi, _ in rows], root)
    for line, wsi, mpp in rows:
        try:
            slide = _checked(wsi, mpp, root, suffixes, on_disk)
            if slide.rel_path in first_line:
                raise _RowError(f"{slide.rel_path} is on line {first_line[slide.rel_path]} already")
        except _RowError as error:
            problems.append(f"line {line}: {' '.join(str(error).split())}")
            continue
        first_line[slide.rel_path] = line
        slides.append(slide)
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = "; ".join(problems[:_SHOWN_PROBLEMS]) + (f"; and {more} lines more" if more > 0 else "")
        raise DiscoveryError(f"{csv_path}: {shown}; correct the list")
    if not slides:
        raise DiscoveryError(f"{csv_path}: the list names no slide; add rows with a path in column `wsi`")
    sizes = source_sizes([(slide.path, slide.status) for slide in slides])
    return [slide.listed(size_bytes) for slide, size_bytes in zip(slides, sizes, strict=True)]


def _rows(csv_path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, `wsi` as it stands, `mpp`) of each row that is not blank."""
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [column.strip() for column in next(reader, [])]
            if "wsi" not in header:
                found = f"its columns are {', '.join(header)}" if any(header) else "it is empty"
                raise DiscoveryError(f"{csv_path}: no column `wsi` ({found}); add one with paths relative to --wsi_dir")
            wsi_at, mpp_at = header.index("wsi"), header.index("mpp") if "mpp" in header else None
            for row in reader:
                if any(cell.strip() for cell in row):
                    mpp = row[mpp_at] if mpp_at is not None and mpp_at < len(row) else ""
                    yield reader.line_num, row[wsi_at] if wsi_at < len(row) else "", mpp.strip()
    except OSError as error:
        raise DiscoveryError(
            f"{csv_path}: the list of slides cannot be read ({error.strerror}); check --custom_list_of_wsis"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DiscoveryError(f"{csv_path}: not a UTF-8 CSV file ({error}); save it as one") from error


def _as_on_disk(wsi: str, root: Path) -> str:
    """A cell without the blanks around it, unless they belong to the name of a file that is there."""
    bare = wsi.strip()
    try:
        is_there = bool(bare) and bare != wsi and os.path.lexists(root / wsi)
    except ValueError:  # no file can have this name; whoever looks for it says so
        return bare
    return wsi if is_there else bare


def _look_at(names: Sequence[str], root: Path) -> dict[str, StatAnswer]:
    """What the disk says about the files of the list; all are asked for together."""
    paths = {name: os.path.normpath(root / name) for name in names if name}
    return dict(zip(paths, stat_all(paths.values()), strict=True))


def _checked(
    wsi: str, mpp: str, root: Path, suffixes: Sequence[str] | None, on_disk: Mapping[str, StatAnswer]
) -> _Checked:
    if not wsi:
        raise _RowError("column `wsi` is blank")
    rel_path = _relative_to(root, wsi)
    if suffixes is not None and not rel_path.lower().endswith(tuple(suffixes)):
        raise _RowError(f"{wsi} has none of the extensions of --wsi_ext ({', '.join(suffixes)})")
    value = positive_number(mpp) if mpp else None
    if mpp and value is None:
        raise _RowError(f"mpp {mpp!r} is not a positive number")
    answer = on_disk[wsi]
    if not isinstance(answer, os.stat_result):
        raise _RowError(f"{wsi} does not exist under {root}") from answer
    return _Checked(str(root / rel_path), rel_path, value, answer)


def _relative_to(root: Path, wsi: str) -> str:
    """`wsi` relative to `root` with forward slashes; links are not followed, so a link may lead anywhere."""
    rel_path = os.path.relpath(os.path.normpath(root / wsi), root)
    if rel_path == os.curdir or rel_path.split(os.sep, 1)[0] == os.pardir:
        raise _RowError(f"{wsi} is not inside the slide folder {root}")
    return rel_path.replace(os.sep, "/")
