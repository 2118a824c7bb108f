"""Patch features of many slides to another format; what is done is skipped, and a bad file costs no other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trident.errors import StoreError
from trident.export.formats import FORMATS, Exported, Format
from trident.export.journal import Journal
from trident.store import digests, h5
from trident.store.atomic import atomic_path

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How an export ended.

    Attributes:
        written: number of slides whose file was made.
        replaced: number of those where another file, of other features or an earlier export, had been.
        skipped: number of those whose file was there.
        problems: one line for each slide that could not be exported.
    """

    written: int = 0
    replaced: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)


def export_slides(
    files: Sequence[tuple[str, Path]],
    output: Path,
    format_name: str,
    *,
    encoder: str,
    overwrite: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> Outcome:
    """Write one file a slide.

    Args:
        files: (slide, its HDF5 features).
        output: folder, made where it is missing.
        format_name: a name of `FORMATS`.
        encoder: of all of them.
        overwrite: write again what is done, and replace files that no export has written.
        progress: called after each slide.

    Raises:
        StoreError: the journal of the folder cannot be read.
    """
    chosen, journal, outcome = FORMATS[format_name], Journal(output), Outcome()
    for slide, source in files:
        target = output / f"{slide}{chosen.suffix}"
        was_there = os.path.lexists(target)
        try:
            if export_slide(slide, source, target, chosen, journal, encoder=encoder, overwrite=overwrite):
                outcome.written += 1
                outcome.replaced += was_there
            else:
                outcome.skipped += 1
        except StoreError as error:
            logger.error("%s: not exported: %s", slide, error)
            outcome.problems.append(str(error))
        progress()
    return outcome


def export_slide(
    slide: str, source: Path, target: Path, chosen: Format, journal: Journal, *, encoder: str, overwrite: bool
) -> bool:
    """Write the file of one slide unless it is done; the answer is whether it was written.

    Raises:
        StoreError: the features cannot be read, the file cannot be written, or a file that no export has written is
            in its place.
    """
    digest = f"{encoder}:{digests.features_digest(source)}"
    if not overwrite:
        if journal.is_done(target, digest):
            return False
        require_own(target, journal)
    exported = Exported(slide, encoder, h5.read_features(source))
    with atomic_path(target) as temporary:
        temporary.touch()  # a folder that cannot be written is told better by the system than by these libraries
        try:
            chosen.write(temporary, exported)
        except RuntimeError as error:  # torch's and HDF5's way to say that the disk is full
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"{target}: cannot be written ({reason}); check the space on this disk") from error
        journal.note(target.name, temporary, digest)
    return True


def require_own(target: Path, journal: Journal) -> None:
    """Raise StoreError where something stands at `target` that no export has written."""
    if os.path.lexists(target) and not journal.is_own(target):
        raise StoreError(
            f"{target}: exists, and no export of this program wrote it; choose another --output, or replace it with "
            "--overwrite"
        )
