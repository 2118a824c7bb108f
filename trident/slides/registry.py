"""Which reader opens which file. Light: a reader's module is imported when one of its slides is opened."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trident.errors import NotAvailableError, SettingsError, UnreadableSlideError

if TYPE_CHECKING:
    from trident.slides.base import Slide

logger = logging.getLogger(__name__)

READER_TYPES = ("openslide", "image", "cucim", "sdpc", "omezarr", "czi")
"""Values of `--reader_type`."""

_READERS = {
    "openslide": ("trident.slides.openslide", "OpenSlideSlide"),
    "image": ("trident.slides.image", "ImageSlide"),
    "cucim": ("trident.slides.cucim", "CuCimSlide"),
}
"""Reader name -> (module, class). The class takes (path, *, mpp, custom_mpp_keys, name)."""

_DOUBLE_EXTENSIONS = (".ome.tiff", ".ome.tif", ".ome.zarr")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")
"""Plain images: one level, read by the `image` reader."""

_READER_BY_EXTENSION = {
    **dict.fromkeys(IMAGE_EXTENSIONS, "image"),
    ".sdpc": "sdpc",
    ".czi": "czi",
    ".ome.zarr": "omezarr",
}

# fmt: off
SLIDE_EXTENSIONS = (
    ".svs", ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide",
    ".dcm", ".czi", ".sdpc", ".ome.zarr", *IMAGE_EXTENSIONS,
)
# fmt: on
"""Extensions that count as slides where `--wsi_ext` names none."""


def slide_extension(path: Path | str) -> str:
    """Extension of a slide file with its dot, as written; `.ome.tif`, `.ome.tiff` and `.ome.zarr` count as one."""
    file_name = Path(path).name
    for extension in _DOUBLE_EXTENSIONS:
        if file_name.lower().endswith(extension) and len(file_name) > len(extension):
            return file_name[-len(extension) :]
    return Path(file_name).suffix


def slide_name(path: Path | str) -> str:
    """File name without its extension; it names every output of the slide."""
    file_name = Path(path).name
    extension = slide_extension(file_name)
    return file_name[: -len(extension)] if extension else file_name


def default_reader_type(path: Path) -> str:
    """The reader that a file's extension and inside call for."""
    reader_type = _READER_BY_EXTENSION.get(slide_extension(path).lower())
    if reader_type is not None:
        return reader_type
    from trident.slides.eligibility import cucim_is_importable, reason_against_cucim

    return "cucim" if reason_against_cucim(path) is None and cucim_is_importable() else "openslide"


def open_slide(
    path: Path | str,
    *,
    reader_type: str | None = None,
    mpp: float | None = None,
    custom_mpp_keys: Sequence[str] = (),
    name: str | None = None,
) -> Slide:
    """Open a slide with the named reader, or with the one that fits the file.

    Args:
        path: the slide file.
        reader_type: one of `READER_TYPES`; None takes plain images with `image`, tiled JPEG and JPEG 2000 TIFF with
            `cucim` where it is installed and gives OpenSlide's pixels, and everything else with `openslide`.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: the file does not open as a slide, or not with the reader that was asked for.
        NotAvailableError: the reader is known but not in this version, or its library is not installed.
        SettingsError: `reader_type` is not a reader.
        MissingMppError: `mpp` is given and not a positive finite number.
    """
    path = Path(path)
    if reader_type is not None and reader_type not in READER_TYPES:
        raise SettingsError(f"unknown reader type {reader_type!r}; choose one of {', '.join(READER_TYPES)}")
    chosen = reader_type or default_reader_type(path)
    try:
        return _open_with(chosen, path, mpp, custom_mpp_keys, name)
    except UnreadableSlideError as error:
        reason = error.__cause__
        if reader_type is not None or chosen != "cucim" or not _is_about_cucim_alone(reason):
            raise
        logger.info("%s: read with OpenSlide, not cuCIM: %s", path, reason)
        slide = _open_with("openslide", path, mpp, custom_mpp_keys, name)
        slide.notes.append(f"read with OpenSlide, not cuCIM: {reason}")
        return slide


def _is_about_cucim_alone(reason: BaseException | None) -> bool:
    from trident.slides.eligibility import IneligibleError

    return isinstance(reason, IneligibleError)


def _open_with(
    reader_type: str, path: Path, mpp: float | None, custom_mpp_keys: Sequence[str], name: str | None
) -> Slide:
    if reader_type not in _READERS:
        raise NotAvailableError(
            f"{path}: the {reader_type} reader is not available in this version; "
            "convert the slide to a pyramidal TIFF and read that"
        )
    module, class_name = _READERS[reader_type]
    reader = getattr(importlib.import_module(module), class_name)
    return cast("Slide", reader(path, mpp=mpp, custom_mpp_keys=custom_mpp_keys, name=name))
