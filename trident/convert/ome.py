"""What OME-XML in a TIFF says that matters here: µm/px, and whether the file is one plane."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from trident.errors import UnreadableSlideError

_MAX_DIGITS = 20
"""More than any number of planes has, and few enough to be read as a number."""

PHYSICAL_SIZE_KEY = "ome.PhysicalSizeX"
"""Property that holds µm/px."""

_MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


def require_one_plane(path: Path, tiff: tifffile.TiffFile) -> dict[str, str]:
    """Properties of an OME-TIFF (`ome.PhysicalSizeX` in µm), none for any other TIFF.

    Raises:
        UnreadableSlideError: it has several channels, depths or times, of which only one would be converted.
    """
    if not tiff.is_ome:
        return {}
    # Not `tiff.series`: it makes room for as many planes as the XML claims.
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError:
        return {}
    pixels = next((element for element in root.iter() if element.tag.endswith("}Pixels")), None)
    if pixels is None:
        return {}
    more = _planes(pixels.attrib, tiff.pages.first.samplesperpixel)
    if more:
        raise UnreadableSlideError(
            path, f"it has several planes ({', '.join(more)}); export the one to be converted as an RGB TIFF"
        )
    if "PhysicalSizeX" not in pixels.attrib:
        return {}
    unit = _MICROMETRES.get(pixels.attrib.get("PhysicalSizeXUnit", "µm"))
    try:
        size = float(pixels.attrib["PhysicalSizeX"])
    except ValueError:
        return {}
    return {} if unit is None else {PHYSICAL_SIZE_KEY: repr(size * unit)}


def _planes(sizes: Mapping[str, str], samples_per_pixel: int) -> list[str]:
    """Axes along which there are several planes, with their number; a plane holds all samples of its pixels."""
    found = []
    for axis, per_plane in (("C", samples_per_pixel), ("Z", 1), ("T", 1)):
        size = sizes.get(f"Size{axis}", "1")
        if not size.isascii() or not size.isdigit() or int(size[:_MAX_DIGITS]) > per_plane:
            found.append(f"{axis}: {size[:_MAX_DIGITS]}")
    return found
