"""Scores of patches from a CSV, such as attention that another program has computed."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trident.errors import SettingsError

logger = logging.getLogger(__name__)


def read_scores(
    path: Path, column: str, slide: str, corners: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The scores of one slide's patches.

    Rows with a blank or infinite score, or NaN, are left out; where there is a column `slide`, so are those of others.

    Args:
        path: UTF-8 CSV with a header and the columns `x`, `y` (level-0 px) and `column`.
        column: the score.
        slide: name of the slide.
        corners: (N, 2) level-0 px of its patches.

    Returns:
        Scores (M,), and the corners (M, 2) that they belong to, in the order of the file.

    Raises:
        SettingsError: not such a CSV, or places where the slide has no patch.
    """
    patches = set(map(tuple, corners.tolist()))
    scores, places = [], []
    for line, x, y, score in _rows(path, column, slide):
        if (x, y) not in patches:
            raise SettingsError(
                f"{path}: line {line}: slide {slide} has no patch at x {x}, y {y}; give the level-0 corners of its "
                "patches, of the same grid (--grid)"
            )
        if math.isfinite(score):
            scores.append(score)
            places.append((x, y))
    if not scores and len(corners):
        raise SettingsError(f"{path}: no scores of slide {slide} in column {column}")
    left = len(patches) - len(set(places))
    if left:
        logger.warning("%s: %d of %d patches of %s have no score and stay as they are", path, left, len(patches), slide)
    return np.array(scores, np.float64), np.array(places, np.int64).reshape(-1, 2)


def _rows(path: Path, column: str, slide: str) -> Iterator[tuple[int, int, int, float]]:
    """(line, x, y, score) of each row of the slide."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            missing = [name for name in ("x", "y", column) if name not in header]
            if missing:
                found = f"its columns are {', '.join(header)}" if any(header) else "it is empty"
                raise SettingsError(f"{path}: no column {', '.join(missing)} ({found}); --column names the score")
            for row in reader:
                if "slide" in header and row["slide"] != slide:
                    continue
                yield reader.line_num, *_numbers(row, column, path, reader.line_num)
    except OSError as error:
        raise SettingsError(f"{path}: these scores cannot be read ({error.strerror}); check --scores") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path}: not a UTF-8 CSV file ({error}); save it as one") from error


def _numbers(row: dict[str, str], column: str, path: Path, line: int) -> tuple[int, int, float]:
    try:
        x, y = float(row["x"]), float(row["y"])
        score = float(row[column] or "nan")
        if x != int(x) or y != int(y):
            raise ValueError(f"x {row['x']} and y {row['y']} are not whole")
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"{path}: line {line}: {error}; give numbers") from error
    return int(x), int(y), score
