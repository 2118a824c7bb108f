"""What OME-XML in a TIFF says that matters here: µm/px, and whether the file is one plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

import tifffile

from trident.slides.metadata import OME_DOWN_KEY, OME_KEY, positive_number

_MAX_DIGITS = 20
"""More than any number of planes has, and few enough to be read as a number."""

_MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


@dataclass(frozen=True)
class OmeFacts:
    """What the first image of the OME-XML says; nothing where there is none."""

    properties: Mapping[str, str] = field(default_factory=dict)
    """`ome.PhysicalSizeX` and `ome.PhysicalSizeY` in µm."""
    more_channels: str = ""
    """Such as `C: 4`: channels that are not all in a pixel of one page."""
    more_planes: tuple[str, ...] = ()
    """The same of depths and times."""


def ome_facts(tiff: tifffile.TiffFile) -> OmeFacts:
    """What an OME-TIFF says of itself; a TIFF without OME-XML, or with such that does not parse, says nothing."""
    if not tiff.is_ome:
        return OmeFacts()
    # Not `tiff.series`: it makes room for as many planes as the XML claims.
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError:
        return OmeFacts()
    pixels = next((element for element in root.iter() if element.tag.endswith("}Pixels")), None)
    if pixels is None:
        return OmeFacts()
    sizes = pixels.attrib
    properties = {}
    for axis, key in (("X", OME_KEY), ("Y", OME_DOWN_KEY)):
        unit = _MICROMETRES.get(sizes.get(f"PhysicalSize{axis}Unit", "µm"))
        size = positive_number(sizes.get(f"PhysicalSize{axis}"))
        if unit is not None and size is not None:
            properties[key] = f"{size * unit:.9g}"
    channels = _more(sizes, "C", tiff.pages.first.samplesperpixel)
    planes = (_more(sizes, axis, 1) for axis in "ZT")
    return OmeFacts(properties, channels, tuple(more for more in planes if more))


def _more(sizes: Mapping[str, str], axis: str, per_plane: int) -> str:
    """The size along an axis where it is more than a plane holds; a plane holds all samples of its pixels."""
    size = sizes.get(f"Size{axis}", "1")
    if size.isascii() and size.isdigit() and int(size[:_MAX_DIGITS]) <= per_plane:
        return ""
    return f"{axis}: {size[:_MAX_DIGITS]}"
