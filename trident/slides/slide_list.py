"""The CSV of `--custom_list_of_wsis`: which slides to take, and their µm/px where the files do not say."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import DiscoveryError
from trident.slides.metadata import positive_number

_SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class ListedSlide:
    """One row of the list, checked against the disk."""

    path: Path
    rel_path: str
    mpp: float | None
    size_bytes: int


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
    slides: list[ListedSlide] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for line, wsi, mpp in _rows(csv_path):
        try:
            slide = _checked(wsi, mpp, root, suffixes)
            if slide.rel_path in first_line:
                raise _RowError(f"{slide.rel_path} is on line {first_line[slide.rel_path]} already")
        except _RowError as error:
            problems.append(f"line {line}: {error}")
            continue
        first_line[slide.rel_path] = line
        slides.append(slide)
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = "; ".join(problems[:_SHOWN_PROBLEMS]) + (f"; and {more} lines more" if more > 0 else "")
        raise DiscoveryError(f"{csv_path}: {shown}; correct the list")
    if not slides:
        raise DiscoveryError(f"{csv_path}: the list names no slide; add rows with a path in column `wsi`")
    return slides


def _rows(csv_path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, `wsi`, `mpp`) of each row that is not blank."""
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
                    yield reader.line_num, row[wsi_at].strip() if wsi_at < len(row) else "", mpp.strip()
    except OSError as error:
        raise DiscoveryError(
            f"{csv_path}: the list of slides cannot be read ({error.strerror}); check --custom_list_of_wsis"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DiscoveryError(f"{csv_path}: not a UTF-8 CSV file ({error}); save it as one") from error


def _checked(wsi: str, mpp: str, root: Path, suffixes: Sequence[str] | None) -> ListedSlide:
    if not wsi:
        raise _RowError("column `wsi` is blank")
    rel_path = _relative_to(root, wsi)
    if suffixes is not None and not rel_path.lower().endswith(tuple(suffixes)):
        raise _RowError(f"{wsi} has none of the extensions of --wsi_ext ({', '.join(suffixes)})")
    value = positive_number(mpp) if mpp else None
    if mpp and value is None:
        raise _RowError(f"mpp {mpp!r} is not a positive number")
    path = root / rel_path
    try:
        size_bytes = path.stat().st_size
    except (OSError, ValueError) as error:
        raise _RowError(f"{wsi} does not exist under {root}") from error
    return ListedSlide(path, rel_path, value, size_bytes)


def _relative_to(root: Path, wsi: str) -> str:
    """`wsi` relative to `root` with forward slashes; links are not followed, so a link may lead anywhere."""
    rel_path = os.path.relpath(os.path.normpath(root / wsi), root)
    if rel_path == os.curdir or rel_path.split(os.sep, 1)[0] == os.pardir:
        raise _RowError(f"{wsi} is not inside the slide folder {root}")
    return rel_path.replace(os.sep, "/")
