"""The options of a conversion, defined once for the `trident` and the `luigi` command line."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trident.errors import NotAvailableError, SettingsError
from trident.job import absolute_path
from trident.settings import Words


class ConvertOptions(BaseModel):
    """Every option of a conversion, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_dir: Path = Field(description="Directory with the files to convert.")
    job_dir: Path = Field(description="Directory of the pyramidal TIFFs.")
    mpp_csv: Path | None = Field(
        default=None,
        description="CSV with the columns `wsi` (path relative to the input directory) and `mpp` (µm/px); it wins over "
        "what the files say. Files that it does not name are converted too.",
    )
    downscale_by: int = Field(
        default=1, ge=1, le=256, description="Whole number by which width and height shrink; µm/px grows by it."
    )
    num_workers: int = Field(default=1, ge=1, description="Files that are converted at once, each by its own process.")
    bigtiff: bool = Field(
        default=False, description="BigTIFF whatever the size (default: where the file could exceed 4 GiB)."
    )
    quality: int = Field(
        default=85, ge=1, le=100, description="JPEG quality; from 90 on colours keep their full resolution."
    )
    wsi_ext: Words | None = Field(
        default=None, description="File extensions to look for, such as `.czi .png` (default: all known)."
    )
    search_nested: bool = Field(default=False, description="Look for files in all subdirectories too.")
    overwrite: bool = Field(default=False, description="Make the TIFFs anew, whatever exists.")
    clear_dead_locks: bool = Field(default=False, description="First remove `.lock` files that dead runs left behind.")


def load_options(**given: Any) -> ConvertOptions:
    """Options from values as somebody gave them, with absolute paths.

    Raises:
        SettingsError: a value is wrong, a key unknown, or outputs would lie among the inputs.
        NotAvailableError: libvips is not installed.
    """
    try:
        options = ConvertOptions(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_problem(dict(item)) for item in error.errors())) from None
    if importlib.util.find_spec("pyvips") is None:
        raise NotAvailableError(
            "conversion needs libvips, which is not installed: pip install 'trident-luigi[convert]'"
        )
    paths = {
        name: absolute_path(path)
        for name in ("input_dir", "job_dir", "mpp_csv")
        if (path := getattr(options, name)) is not None
    }
    options = options.model_copy(update=paths)
    inside = options.job_dir.resolve().is_relative_to(options.input_dir.resolve())
    if inside and (options.search_nested or options.job_dir.resolve() == options.input_dir.resolve()):
        raise SettingsError(
            f"--job_dir {options.job_dir} lies where --input_dir is searched: the next run would take its TIFFs for "
            "inputs; choose a folder outside"
        )
    return options


def _problem(item: dict[str, Any]) -> str:
    name = str(item["loc"][0]) if item["loc"] else "options"
    if item["type"] == "missing":
        return f"--{name} is required"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"--{name} {item.get('input')!s}: {message[:1].lower()}{message[1:]}"
