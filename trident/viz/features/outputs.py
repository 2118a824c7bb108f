"""A picture and the table beside it: both are written, and no file of somebody else's is lost for them.

The PNG notes the digest of its table. So a CSV that lies where the table belongs is known to be ours, unchanged, and
may be replaced; any other may be the only copy of somebody's work.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image, PngImagePlugin

from trident.errors import SettingsError, StoreError
from trident.slides.pillow import BadImageError, opened_image
from trident.store.atomic import atomic_path
from trident.store.recipes import sha256_of

_TABLE_KEY = "trident-table"


def table_of(picture: Path) -> Path:
    """Where the table of a picture lies."""
    return picture.with_suffix(".csv")


def check_output(picture: Path, *, named: bool, source: Path | None = None) -> None:
    """Refuse to write where a file would be lost that nobody has said may be replaced. To be called before any work.

    Args:
        picture: the PNG that is to be written; `table_of` it goes beside it.
        named: whether the user named it: then it may be replaced, and a table beside it only where we wrote that one.
            Otherwise both have their usual place, which is ours.
        source: a file that is read, and never replaced.

    Raises:
        SettingsError: one would be.
    """
    table = table_of(picture)
    for path in (picture, table):
        if source is not None and _is_same(path, source):
            raise SettingsError(f"{path}: this file holds the --scores, and would be replaced; name another --output")
    if named and os.path.lexists(table) and not _is_ours(table, picture):
        raise SettingsError(
            f"{table}: no table that belongs to {picture.name} (another file, or changed since), and it would be "
            "replaced; name another --output, or move it away"
        )


def save_both(picture: Path, image: Image.Image, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write the picture, and then the table as CSV (UTF-8, commas), each whole or not at all.

    Neither replaces anything before the content of both is on the disk, so no table is ever left without its picture.

    Raises:
        StoreError: one cannot be written; says whether the picture was.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    notes = PngImagePlugin.PngInfo()
    table, left = table_of(picture), f"neither {picture.name} nor its table was written"
    try:
        with atomic_path(table) as table_beside:
            table_beside.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))
            notes.add_text(_TABLE_KEY, sha256_of(table_beside))
            with atomic_path(picture) as picture_beside:
                image.save(picture_beside, format="PNG", pnginfo=notes)
            left = f"{picture.name} was written, its table was not"
    except StoreError as error:
        raise StoreError(f"{error} ({left})") from error


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(path, other)  # noqa: PTH121 - two files of which one need not be there
    return False


def _is_ours(table: Path, picture: Path) -> bool:
    """Whether the picture that is there says that this table was written with it."""
    if table.is_symlink() or not table.is_file():
        return False
    try:
        with opened_image(picture) as image:
            return bool(image.info.get(_TABLE_KEY) == sha256_of(table))
    except (BadImageError, StoreError):
        return False
