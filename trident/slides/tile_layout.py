"""How the levels of a slide are cut into tiles (TIFF) or chunks (OME-Zarr) and compressed, as far as the file says so.

Imports tifffile: import this module late.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tifffile

from trident.slides.base import Slide
from trident.slides.eligibility import PARSE_ERRORS

logger = logging.getLogger(__name__)

_TIFF_EXTENSIONS = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".svslide", ".qptiff")
_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32946: "Deflate",
    33003: "JPEG 2000 (YCbCr)",
    33005: "JPEG 2000 (RGB)",
    34712: "JPEG 2000",
    34892: "lossy JPEG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
"""Names of the TIFF compression tags that slides have."""
_COMPRESSION_KEYS = ("dicom.LossyImageCompressionMethod", "mirax.LAYER_0_LEVEL_0_SECTION.IMAGE_FORMAT", "image.format")
"""Metadata keys that say it in files that are no TIFF, for all levels at once."""
_DICOM_COMPRESSIONS = {
    "ISO_10918_1": "JPEG",
    "ISO_14495_1": "JPEG-LS",
    "ISO_15444_1": "JPEG 2000",
    "ISO_15444_15": "HTJ2K",
}
"""Defined terms of DICOM PS3.3, C.7.6.1.1.5.1."""


@dataclass(frozen=True)
class LevelLayout:
    """Tiles of one level; None stands for what is not known, or for a level without tiles."""

    tile_size: tuple[int, int] | None
    """(width, height) in pixels of the level."""
    compression: str | None


def level_layouts(slide: Slide) -> tuple[LevelLayout, ...]:
    """The layout of each level of an opened slide, level 0 first."""
    pages = _tiff_layouts(slide.path) or _zarr_layouts(slide.path, slide.properties.get("omezarr.axes", ""))
    said = next((slide.properties[key] for key in _COMPRESSION_KEYS if slide.properties.get(key)), None)
    compression = None if said is None else _DICOM_COMPRESSIONS.get(said, said)
    return tuple(
        pages.get(size) or LevelLayout(_stated_tile_size(slide.properties, level), compression)
        for level, size in enumerate(slide.level_dimensions)
    )


def _tiff_layouts(path: Path) -> dict[tuple[int, int], LevelLayout]:
    """(width, height) of each TIFF page -> its layout; empty for other files, and for directories that do not parse.

    Of two pages of one size the first one counts, but a tiled one before one of strips.
    """
    if path.suffix.lower() not in _TIFF_EXTENSIONS or not path.is_file():
        return {}
    found: dict[tuple[int, int], LevelLayout] = {}
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in _pages(tiff):
                size = (page.imagewidth, page.imagelength)
                layout = LevelLayout((page.tilewidth, page.tilelength) if page.is_tiled else None, _compression(page))
                if size not in found or (found[size].tile_size is None and layout.tile_size is not None):
                    found[size] = layout
    except PARSE_ERRORS as error:  # whoever opened the slide knows better
        logger.debug("%s: its tiles are not known: %s", path, error)
        return {}
    return found


def _pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """The pages of a TIFF, each followed by its reduced images (sub-IFDs, as in OME-TIFF)."""
    for page in tiff.pages:
        if isinstance(page, tifffile.TiffPage):
            yield page
            for reduced in page.pages or ():
                if isinstance(reduced, tifffile.TiffPage):
                    yield reduced


def _zarr_layouts(path: Path, axes: str) -> dict[tuple[int, int], LevelLayout]:
    """(width, height) of each array in an OME-Zarr folder -> its chunks; empty for files, and where zarr is missing.

    Args:
        path: the slide.
        axes: one letter an axis of the arrays, such as "tczyx".
    """
    if not axes or not path.is_dir():
        return {}
    try:
        import zarr

        members = zarr.open_group(path, mode="r").members(max_depth=1)
        arrays = [member for _, member in members if isinstance(member, zarr.Array) and member.ndim == len(axes)]
    except (ImportError, OSError, ValueError, LookupError, TypeError) as error:
        logger.debug("%s: its chunks are not known: %s", path, error)
        return {}
    found: dict[tuple[int, int], LevelLayout] = {}
    for array in arrays:
        width_px, height_px = (array.shape[axes.index(axis)] for axis in "xy")
        across_px, down_px = (array.chunks[axes.index(axis)] for axis in "xy")
        names = [getattr(codec, "codec_id", type(codec).__name__).removesuffix("Codec") for codec in array.compressors]
        layout = LevelLayout((across_px, down_px), ", ".join(names).lower() or "none")
        found.setdefault((width_px, height_px), layout)
    return found


def _compression(page: tifffile.TiffPage) -> str:
    code = int(page.compression)
    return _COMPRESSIONS.get(code, f"TIFF compression {code}")


def _stated_tile_size(properties: Mapping[str, str], level: int) -> tuple[int, int] | None:
    sides = [properties.get(f"openslide.level[{level}].tile-{side}", "") for side in ("width", "height")]
    return (int(sides[0]), int(sides[1])) if all(side.isdecimal() for side in sides) else None
