"""Overlays of the job directory, scaled so that all of them fit in one page, as base64 WebP."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trident.viz.report.facts import relative_name, stamp

# Longest side for up to so many pictures: measured at 0.10 to 0.23 bytes a pixel (a page of 20 to 45 MB).
_SIDES_PX = ((500, 800), (700, 640), (1_100, 480), (2_100, 320), (3_600, 240), (7_200, 160))
SMALLEST_SIDE_PX = 96
MAX_PICTURES = 30_000
"""Beyond this many the rest is left out, and the page says so."""

_QUALITY = 70
_THREADS = 4


@dataclass(frozen=True)
class Picture:
    """One picture that the page wants: its id there, and the file that it is made from."""

    id: str
    path: Path


def side_px(n_pictures: int) -> int:
    """Longest side in pixels at which `n_pictures` fit in one page."""
    return next((side for most, side in _SIDES_PX if n_pictures <= most), SMALLEST_SIDE_PX)


def picture_of(path: Path, job_dir: Path, side: int) -> Picture | None:
    """The picture of a file, whose id changes with the file and the side; None where there is no file."""
    now = stamp(path)
    if now is None:
        return None
    made_from = f"{relative_name(path, job_dir)}\n{now}\n{side}\n{_QUALITY}"
    return Picture(hashlib.sha256(os.fsencode(made_from)).hexdigest()[:20], path)


def make_pictures(
    wanted: Mapping[str, Path], known: Mapping[str, str], side: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Base64 of each picture, and what is wrong with those that cannot be read, both by id.

    Args:
        wanted: id -> JPEG or PNG file.
        known: pictures of the report before; what is in there is not made again.
        side: longest side in pixels.
    """
    new = {key: path for key, path in wanted.items() if key not in known}
    made = {key: known[key] for key in wanted if key in known}
    problems: dict[str, str] = {}
    # Pillow releases the interpreter lock while it decodes and encodes.
    with ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1)) as pool:
        for key, (data, problem) in zip(new, pool.map(lambda path: _scaled(path, side), new.values()), strict=True):
            if problem is None:
                made[key] = data
            else:
                problems[key] = problem
    return {key: made[key] for key in wanted if key in made}, problems


def _scaled(path: Path, side: int) -> tuple[str, str | None]:
    from trident.slides.pillow import BadImageError, NotAnImageError, load_pixels, opened_image

    try:
        with opened_image(path) as image:
            image.draft("RGB", (side, side))  # JPEG decodes at half, a quarter or an eighth for free
            load_pixels(image)
            picture = image.convert("RGB")
            picture.thumbnail((side, side))
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=_QUALITY, method=2)
    except NotAnImageError:
        return "", "it is not a picture"
    except BadImageError as error:
        return "", f"it is damaged ({error})"
    except MemoryError:
        return "", "it does not fit into the memory that is left"
    return base64.b64encode(buffer.getvalue()).decode("ascii"), None
