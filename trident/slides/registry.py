"""Which reader opens which file. Light: a reader's module is imported when one of its slides is opened."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trident.errors import SettingsError, UnreadableSlideError
from trident.slides.memory import shortage_told

if TYPE_CHECKING:
    from trident.slides.base import Slide

logger = logging.getLogger(__name__)

READER_TYPES = ("openslide", "image", "cucim", "sdpc", "omezarr", "czi")
"""Values of `--reader_type`."""

_READERS = {
    "openslide": ("trident.slides.openslide", "OpenSlideSlide"),
    "image": ("trident.slides.image", "ImageSlide"),
    "cucim": ("trident.slides.cucim", "CuCimSlide"),
    "sdpc": ("trident.slides.sdpc", "SdpcSlide"),
    "omezarr": ("trident.slides.omezarr", "OmeZarrSlide"),
    "czi": ("trident.slides.czi", "CziSlide"),
}
"""Reader name -> (module, class). The class takes (path, *, mpp, custom_mpp_keys, name)."""

_DOUBLE_EXTENSIONS = (".ome.tiff", ".ome.tif", ".ome.zarr")
_FOLDER_EXTENSIONS = (".zarr",)
"""Slides that are folders; what lies inside is no slide of its own, unless it is named."""
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")
"""Plain images: one level, read by the `image` reader."""

_READER_BY_EXTENSION = {
    **dict.fromkeys(IMAGE_EXTENSIONS, "image"),
    ".sdpc": "sdpc",
    ".czi": "czi",
    ".ome.zarr": "omezarr",
    ".zarr": "omezarr",
}

# fmt: off
SLIDE_EXTENSIONS = (
    ".svs", ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide",
    ".dcm", ".czi", ".sdpc", ".ome.zarr", ".zarr", *IMAGE_EXTENSIONS,
)
# fmt: on
"""Extensions that count as slides where `--wsi_ext` names none."""


def slide_extension(path: Path | str) -> str:
    """Extension of a slide file with its dot, as written; `.ome.tif`, `.ome.tiff` and `.ome.zarr` count as one.

    Digits alone are no extension: DICOM folders are named by identifiers such as 1.2.840.10008.
    """
    file_name = Path(path).name
    for extension in _DOUBLE_EXTENSIONS:
        if file_name.lower().endswith(extension) and len(file_name) > len(extension):
            return file_name[-len(extension) :]
    suffix = Path(file_name).suffix
    return "" if suffix[1:].isdecimal() else suffix


def slide_name(path: Path | str, *, is_folder: bool = False) -> str:
    """File name without its extension; it names every output of the slide.

    An image inside a folder of several (`a.ome.zarr/1`) has the folder's name before its own (`a_1`).

    Args:
        path: the slide.
        is_folder: whether it is a folder. Then only a slide's extension counts as one: what follows the dot in the
            name of a DICOM folder is often a part of an identifier, and all that tells two of them apart.
    """
    path = Path(path)
    folder = slide_folder(path)
    if folder is not None and folder != path:
        return "_".join((slide_name(folder), *path.relative_to(folder).parts))
    extension = slide_extension(path.name)
    if is_folder and folder is None and extension.lower() not in SLIDE_EXTENSIONS:
        return path.name
    return path.name[: -len(extension)] if extension else path.name


def slide_folder(path: Path) -> Path | None:
    """The outermost part of a path that is a slide by its name and a folder by its kind (`.zarr`), or None."""
    if not any(extension in str(path).lower() for extension in _FOLDER_EXTENSIONS):
        return None
    candidates = [*reversed(path.parents), path]
    return next((part for part in candidates if part.name.lower().endswith(_FOLDER_EXTENSIONS)), None)


def has_own_reader(path: Path) -> bool:
    """Whether a file's extension, or the folder that it lies in, calls for a reader that takes nothing else."""
    return slide_extension(path).lower() in _READER_BY_EXTENSION or slide_folder(path) is not None


def default_reader_type(path: Path) -> str:
    """The reader that a file's extension and inside call for."""
    reader_type = _READER_BY_EXTENSION.get(slide_extension(path).lower())
    if reader_type is not None:
        return reader_type
    if slide_folder(path) is not None:
        return "omezarr"
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
        path: the slide file, or a folder that is one (OME-Zarr, a DICOM series).
        reader_type: one of `READER_TYPES`; None takes plain images, CZI, SDPC and OME-Zarr with the reader of that
            name, tiled JPEG and JPEG 2000 TIFF with `cucim` where it is installed and gives OpenSlide's pixels, and
            everything else with `openslide`.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: the file does not open as a slide, or not with the reader that was asked for.
        SlideMemoryError: opening it takes more memory than there is.
        NotAvailableError: the reader's library is not installed.
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
    module, class_name = _READERS[reader_type]
    reader = getattr(importlib.import_module(module), class_name)
    with shortage_told(path, "open it"):
        return cast("Slide", reader(path, mpp=mpp, custom_mpp_keys=custom_mpp_keys, name=name))
