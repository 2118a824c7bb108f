"""Slide embeddings of a whole cohort in one Parquet file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trident.errors import StoreError
from trident.export.journal import Journal
from trident.export.slides import Outcome, require_own
from trident.store import digests, h5
from trident.store.atomic import atomic_path
from trident.store.h5_read import SlideFeaturesFile

logger = logging.getLogger(__name__)

PARQUET_PACKAGES = ("pyarrow",)

_GROUP_ROWS = 512
"""Slides that are held at once, and a row group of the file."""


@dataclass(frozen=True)
class _Source:
    slide: str
    path: Path
    dim: int


def export_cohort(
    files: Sequence[tuple[str, Path]],
    target: Path,
    *,
    encoder: str,
    overwrite: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> Outcome:
    """Write one row a slide: `slide`, `n_patches`, and `features`, a list of D float32.

    Slides without patches have the embedding that the file states (zeros) and `n_patches` 0. A file that cannot be
    read, or whose embedding has another length than most, is left out.

    Args:
        files: (slide, its HDF5 embedding).
        target: the Parquet file.
        encoder: of all of them.
        overwrite: write again what is done, and replace a file that no export has written.
        progress: called after each slide.

    Raises:
        StoreError: no file can be read, one changes meanwhile, or the output cannot be written.
    """
    outcome, journal = Outcome(), Journal(target.parent)
    sources, digest = _usable(files, encoder, outcome, progress)
    if not sources:
        raise StoreError(f"{target}: not written: none of {len(files)} embeddings can be read: {outcome.problems[0]}")
    if not overwrite:
        if journal.is_done(target, digest):
            outcome.skipped = len(sources)
            return outcome
        require_own(target, journal)
    was_there = os.path.lexists(target)
    with atomic_path(target) as temporary:
        _write(temporary, sources, encoder)
        journal.note(target.name, temporary, digest)
    outcome.written = len(sources)
    outcome.replaced = len(sources) if was_there else 0
    return outcome


def _usable(
    files: Sequence[tuple[str, Path]], encoder: str, outcome: Outcome, progress: Callable[[], object]
) -> tuple[list[_Source], str]:
    """The files that can be exported, and one digest of all; the others become problems."""
    found: list[tuple[_Source, str]] = []
    for slide, path in files:
        try:
            header = h5.read_header(path)
            if header.features_shape is None or len(header.features_shape) != 1:
                raise StoreError(f"{path}: this is no slide embedding, a vector; make it anew with --overwrite")
            found.append((_Source(slide, path, header.features_shape[0]), digests.features_digest(path)))
        except StoreError as error:
            _refuse(outcome, slide, str(error))
        progress()
    lengths = [source.dim for source, _ in found]
    usual = max(sorted(set(lengths)), key=lengths.count, default=0)
    kept = []
    for source, digest in found:
        if source.dim == usual:
            kept.append((source, digest))
        else:
            what = f"{source.path}: its embedding has {source.dim} values, and those of most slides {usual}"
            _refuse(outcome, source.slide, f"{what}; make it anew with --overwrite")
    content = json.dumps([encoder, *((source.slide, digest) for source, digest in kept)])
    return [source for source, _ in kept], f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def _refuse(outcome: Outcome, slide: str, problem: str) -> None:
    logger.error("%s: not exported: %s", slide, problem)
    outcome.problems.append(problem)


def _write(path: Path, sources: Sequence[_Source], encoder: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim = sources[0].dim
    fields = [("slide", pa.string()), ("n_patches", pa.int64()), ("features", pa.list_(pa.float32(), dim))]
    schema = pa.schema(fields, metadata={"encoder": encoder.encode("utf-8", "backslashreplace")})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(sources), _GROUP_ROWS):
            group = sources[start : start + _GROUP_ROWS]
            read = list(_read(group))
            values = np.concatenate([one.features for one in read])
            columns: list[Any] = [
                pa.array([one.slide.encode("utf-8", "backslashreplace").decode() for one in group], pa.string()),
                pa.array([len(one.coords) for one in read], pa.int64()),
                pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), dim),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _read(group: Sequence[_Source]) -> Iterator[SlideFeaturesFile]:
    for source in group:
        found = h5.read_slide_features(source.path)
        if len(found.features) != source.dim:
            raise StoreError(f"{source.path}: it changed while it was exported; run the export again")
        yield found
