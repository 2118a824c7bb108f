"""Weights that are published in several files, with an index that says which tensor lies where. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from trident.errors import WeightsError

INDEX_SUFFIX = ".index.json"
"""How the name of such an index ends."""


def is_index(path: Path) -> bool:
    """Whether this is, by its name, an index of several files."""
    return path.name.endswith(INDEX_SUFFIX)


def shard_names(index: Path, prefixes: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the files beside `index` that hold a tensor whose name begins with one of `prefixes`, sorted.

    Without prefixes, or where no tensor has one of them, these are all files: the strict load then tells what is wrong.

    Raises:
        WeightsError: the index cannot be read, or names a file outside of its folder.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        where: dict[str, str] = dict(content["weight_map"])
        plain = all(PurePosixPath(shard).name == shard != ".." and "\\" not in shard for shard in where.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index}: not an index of weights files ({error}); download it again") from error
    if not where or not plain:
        raise WeightsError(
            f"{index}: this index of weights files must name files of its own folder; download it again from its source"
        )
    wanted = {shard for tensor, shard in where.items() if tensor.startswith(tuple(prefixes))} if prefixes else set()
    return tuple(sorted(wanted or set(where.values())))


def shard_paths(index: Path, prefixes: Sequence[str] = ()) -> tuple[Path, ...]:
    """The files of `shard_names`.

    Raises:
        WeightsError: as `shard_names`; also where a file is missing.
    """
    paths = tuple(index.parent / name for name in shard_names(index, prefixes))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} of the {len(paths)} needed files are missing beside it: "
            f"{', '.join(missing[:4])}; download them into that folder"
        )
    return paths
