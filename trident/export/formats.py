"""Patch features of one slide in the formats of other tools; libraries are imported when a file is written."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trident.errors import NotAvailableError
from trident.store.h5_read import FeaturesFile

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Exported:
    """What is written for one slide.

    Attributes:
        slide: its name.
        encoder: the patch encoder's name.
        content: features (N, D) float32 and coordinates (N, 2) int64 of the same patches.
    """

    slide: str
    encoder: str
    content: FeaturesFile

    @property
    def facts(self) -> dict[str, Any]:
        """Slide, encoder, and what the file says about its patches (`patch_size_level0`, ...), as plain values."""
        stored = {key: value for key, value in self.content.coords_attributes.items() if _is_plain(value)}
        # `name` and `savetodir` are about files of the job directory.
        kept = {_text(key): _text(value) for key, value in stored.items() if key not in ("name", "savetodir")}
        return {**kept, "slide": _text(self.slide), "encoder": _text(self.encoder)}


@dataclass(frozen=True)
class Format:
    """A format of patch features.

    Attributes:
        suffix: of its files.
        packages: what it needs beside this project's own dependencies.
        write: writes one slide to exactly this path.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Path, Exported], None]


def write_tensor(path: Path, exported: Exported) -> None:
    """The features alone, float32 (N, D), as `torch.load` gives them back; rows as in the HDF5 file."""
    import torch

    torch.save(torch.from_numpy(exported.content.features), path)


def write_zarr(path: Path, exported: Exported) -> None:
    """A Zarr group (format 3) in one zip file: arrays `features` and `coords`, attributes of the group."""
    import zarr

    content = exported.content
    n_rows, dim = content.features.shape
    rows = max(1, min(n_rows, _CHUNK_BYTES // max(1, 4 * dim)))
    with zarr.storage.ZipStore(path, mode="w") as store:
        group = zarr.create_group(store, zarr_format=3, attributes=exported.facts)
        for name, values, chunks in (
            ("features", content.features, (rows, max(1, dim))),
            ("coords", content.coords, (max(1, n_rows), 2)),
        ):
            group.create_array(name, data=values, chunks=chunks)


def write_anndata(path: Path, exported: Exported) -> None:
    """An AnnData file: a patch is an observation; `obsm["features"]`, and corners as `obsm["spatial"]` too."""
    import anndata
    import pandas as pd

    content, name = exported.content, _text(exported.slide)
    n_rows = len(content.coords)
    # A slash would make a group within a group of such a name.
    facts = {key.replace("/", "_"): value for key, value in exported.facts.items()}
    # Texts as objects: AnnData cannot write those that pandas 3 makes by itself.
    slides, rows, none = (
        pd.Index(one, dtype=object) for one in ([name], [f"{name}_{row}" for row in range(n_rows)], [])
    )
    columns = {
        "slide": pd.Categorical.from_codes([0] * n_rows, categories=slides),
        "x": content.coords[:, 0],
        "y": content.coords[:, 1],
    }
    data = anndata.AnnData(
        obs=pd.DataFrame(columns, index=rows),
        var=pd.DataFrame(index=none),
        obsm={"features": content.features, "spatial": content.coords},
        uns=facts,
    )
    data.write_h5ad(path)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "pt": Format(".pt", (), write_tensor),
        "zarr": Format(".zarr.zip", ("zarr",), write_zarr),
        "h5ad": Format(".h5ad", ("anndata",), write_anndata),
    }
)
"""Formats of patch features, by the name that `--format` has for them."""


def require_packages(name: str, packages: tuple[str, ...]) -> None:
    """Import what a format needs.

    Raises:
        NotAvailableError: it is not installed.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise NotAvailableError(
                f"--format {name} needs {package}, which is not installed ({error}); install the extra `export`: "
                "pip install 'trident-luigi[export]'"
            ) from error


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _text(value: Any) -> Any:
    """A text without what UTF-8 cannot say (a slide's undecodable name); other values as they are."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
