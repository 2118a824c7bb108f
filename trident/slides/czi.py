"""Slides in Zeiss CZI, read with pylibCZIrw (libCZI). Imported when such a slide is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from numpy.typing import NDArray

from trident.errors import NotAvailableError, UnreadableSlideError
from trident.slides.base import RGBImage
from trident.slides.diagnosis import one_line, require_file
from trident.slides.limits import MAX_SIDE_PX, MAX_TILE_PX
from trident.slides.metadata import positive_number
from trident.slides.pyramid_reader import Box, Facts, PyramidSlide

_CACHE_BYTES = 256 << 20
"""Decoded subblocks that libCZI keeps: neighbouring patches share them."""

_BITS = {"Gray8": 8, "Gray16": 16, "Bgr24": 8, "Bgr48": 16}
"""Pixel types that become RGB, and bits of one value."""

_MICROMETERS_PER_METER = 1e6
_SHOWN_SCENES = 5

_Reader = Any
_Plane = tuple[tuple[str, int], ...]
"""(dimension, coordinate) along all dimensions but X, Y and the scene."""


class CziSlide(PyramidSlide):
    """A brightfield slide in CZI: one channel, grey or colour, of 8 or 16 bits.

    All scenes are read together, at the places where they lie on the slide: level 0 is the rectangle around them, whose
    top-left corner is (0, 0) here whatever its coordinates in the file are. What was not scanned is black, in
    thumbnails white. Levels are those that the file has pyramid subblocks for. Of several focal planes the middle one
    counts, of several time points the first. 16-bit values are scaled linearly from the stated number of bits.

    libCZI composes a region of a coarser level from subblocks by nearest neighbours; at their edges a row or column may
    be one pixel of that level off.

    Args:
        path: the slide file.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: not a CZI file, damaged, or of several channels or another pixel type.
        NotAvailableError: pylibCZIrw is not installed.
        MissingMppError: `mpp` is given and not a positive finite number.
    """

    reader_type: ClassVar[str] = "czi"

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: float | None = None,
        custom_mpp_keys: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        path = Path(path)
        reader = _opened(path)
        try:
            extents: Mapping[str, tuple[int, int]] = reader.total_bounding_box_no_pyramid
            frame = reader.total_bounding_rectangle_no_pyramid
            factors, starts, planes = _subblocks(reader)
            # Not `pixel_types`: that asks for each channel, and a damaged file may claim a billion.
            self._pixel_type = pixel_type = str(reader.get_channel_pixel_type(starts.get("C", 0)))
            metadata = _parsed(path, reader.raw_metadata)
            n_scenes = len(reader.scenes_bounding_rectangle_no_pyramid)
            self._factors = (1, *factors)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UnreadableSlideError(
                path, f"its CZI directory does not parse ({one_line(error)}); fetch it again"
            ) from error
        _check(path, extents, pixel_type, (frame.w, frame.h))
        self._origin = (frame.x, frame.y)
        # A file cut out of a larger one keeps the numbers that its planes had there, so none need begin at 0.
        self._plane = {
            axis: starts.get(axis, 0) + ((end - first) // 2 if axis == "Z" else 0)
            for axis, (first, end) in extents.items()  # of which the library always says that they begin at 0
            if axis not in "XY"
        }
        self._table = _to_8_bits(_BITS[pixel_type], metadata.get("czi.component-bits"))
        self._white = _white()
        notes = _notes(extents, starts.get("Z", 0), n_scenes, metadata, is_deep=self._table is not None)
        notes += _note_of_empty_scenes(planes, self._plane)
        properties = {"czi.pixel-type": pixel_type, "czi.scenes": str(n_scenes), **metadata}
        sizes = [(max(frame.w // factor, 1), max(frame.h // factor, 1)) for factor in self._factors]
        facts = Facts(sizes, [float(factor) for factor in self._factors], properties, notes)
        super().__init__(path, reader, facts, mpp=mpp, custom_mpp_keys=custom_mpp_keys, name=name)

    def _read_box(self, handle: Any, level: int, box: Box) -> RGBImage:
        return self._read(handle, level, box, {})

    def _read_opaque(self, handle: Any, level: int, box: Box) -> RGBImage:
        return self._read(handle, level, box, {"background_pixel": self._white})

    def _read(self, reader: _Reader, level: int, box: Box, options: dict[str, Any]) -> RGBImage:
        factor, (x, y) = self._factors[level], self._origin
        place = (x + box.left * factor, y + box.top * factor, box.width * factor, box.height * factor)
        where = f"the {box.width} x {box.height} px region at ({box.left}, {box.top}) of level {level}"
        try:
            # Without the pixel type the library takes that of channel 0, which need not be there.
            options = {"plane": self._plane, "pixel_type": self._pixel_type, **options}
            pixels = np.asarray(reader.read(roi=place, zoom=1 / factor, **options))
        except (RuntimeError, ValueError) as error:
            raise UnreadableSlideError(
                self.path, f"{where} does not decode ({one_line(error)}); fetch the file again or leave the slide out"
            ) from error
        if pixels.shape[:2] != (box.height, box.width):
            raise UnreadableSlideError(
                self.path, f"{where} came back with the shape {pixels.shape}; convert the slide to a pyramidal TIFF"
            )
        if self._table is not None:
            pixels = self._table[pixels]
        # libCZI gives blue, green, red.
        code = cv2.COLOR_GRAY2RGB if pixels.shape[2] == 1 else cv2.COLOR_BGR2RGB
        return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


def _opened(path: Path) -> _Reader:
    """libCZI's reader of a file; it is closed when nothing refers to it any more.

    Raises:
        NotAvailableError: pylibCZIrw is not installed.
        UnreadableSlideError: not a CZI file, or damaged.
    """
    require_file(path)
    try:
        from pylibCZIrw import czi
    except ImportError as error:
        raise NotAvailableError(
            f"{path}: reading CZI needs pylibCZIrw ({one_line(error)}); pip install 'trident-luigi[czi]'"
        ) from error
    try:
        return czi.CziReader(str(path), cache_options=czi.CacheOptions(max_memory_usage=_CACHE_BYTES))
    except (RuntimeError, ValueError) as error:
        raise UnreadableSlideError(
            path, f"it does not open as a CZI file ({one_line(error)}); fetch it again or check its format"
        ) from error


def _white() -> Any:
    from pylibCZIrw import czi

    return czi.Color(1.0, 1.0, 1.0)


def _subblocks(reader: _Reader) -> tuple[list[int], dict[str, int], dict[int, set[_Plane]]]:
    """What only the subblocks say.

    Returns:
        The downsamples that the file's pyramid subblocks have, all whole numbers, finest first; the smallest coordinate
        along each dimension, such as {"Z": 5, "C": 0}; and the planes in which each scene has subblocks.

    Raises:
        ValueError: a subblock claims a size that none has; libCZI would write beyond its memory.
    """
    factors = set()
    starts: dict[str, int] = {}
    planes: dict[int, set[_Plane]] = {}
    impossible = []

    def look(_: int, block: Any) -> bool:
        logical, stored = block.logicalRect, block.physicalSize
        sides = (logical.w, logical.h, stored.w, stored.h)
        if min(sides) < 1 or max(sides) > MAX_SIDE_PX or stored.w * stored.h > MAX_TILE_PX:
            impossible.append(f"a subblock of {stored.w} x {stored.h} px for {logical.w} x {logical.h} px")
            return False
        coordinate = block.coordinate.to_dict()
        for axis, place in coordinate.items():
            starts[axis] = min(place, starts.get(axis, place))
        scene = coordinate.pop("S", 0)
        planes.setdefault(scene, set()).add(tuple(sorted(coordinate.items())))
        if stored.w < logical.w and stored.h < logical.h:
            factor = round(logical.w / stored.w)
            # A block at the slide's edge may be cut to a size that is no multiple; such a one tells nothing.
            if logical.w == factor * stored.w and logical.h == factor * stored.h:
                factors.add(factor)
        return True

    reader.enumerate_subblocks(look)
    if impossible:
        raise ValueError(impossible[0])
    return sorted(factors), starts, planes


def _check(path: Path, extents: Mapping[str, tuple[int, int]], pixel_type: str, size: tuple[int, int]) -> None:
    """Refuse what has no RGB, and a file without pixels."""
    first, end = extents["C"]
    if end - first > 1:
        raise UnreadableSlideError(
            path,
            f"it has {end - first} channels (fluorescence?), where only one, grey or colour, is read; export it so",
        )
    if pixel_type not in _BITS:
        raise UnreadableSlideError(
            path, f"its pixels are of type {pixel_type}, where {', '.join(_BITS)} are read; export it as one of these"
        )
    if min(size) < 1:
        raise UnreadableSlideError(path, "it holds no pixels; fetch it again")


def _parsed(path: Path, xml: str) -> dict[str, str]:
    """What is used of the metadata, under names of our own with units."""
    try:
        root = ET.fromstring(xml)
    except ET.ParseError as error:
        raise UnreadableSlideError(
            path, f"its XML metadata does not parse ({one_line(error)}); fetch it again"
        ) from error
    found: dict[str, str] = {}
    for axis in "XY":
        meters = positive_number(root.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value"))
        mpp = meters * _MICROMETERS_PER_METER if meters is not None else 0.0
        if mpp > 0 and math.isfinite(mpp):
            found[f"czi.mpp-{axis.lower()}"] = f"{mpp:.9g}"
    for key, place in {
        "czi.objective-power": ".//Instrument/Objectives/Objective/NominalMagnification",
        "czi.component-bits": ".//Information/Image/ComponentBitCount",
        "czi.scanner": ".//Instrument/Microscopes/Microscope/System",
        "czi.application": ".//Information/Application/Name",
    }.items():
        text = (root.findtext(place) or "").strip()
        if text:
            found[key] = text
    return found


def _to_8_bits(bits: int, stated: str | None) -> NDArray[np.uint8] | None:
    """The 8-bit value of each 16-bit one, or None for pixels that have 8 bits already.

    A camera of 12 or 14 bits leaves the upper ones empty; `stated` says how many it has, where the file says so.
    """
    if bits == 8:
        return None
    used = int(stated) if stated is not None and stated.isdecimal() and 8 < int(stated) <= bits else bits
    values = np.arange(1 << bits) * (255 / ((1 << used) - 1))
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _notes(
    extents: Mapping[str, tuple[int, int]],
    first_z: int,
    n_scenes: int,
    metadata: Mapping[str, str],
    *,
    is_deep: bool,
) -> list[str]:
    notes = []
    if n_scenes > 1:
        notes.append(f"its {n_scenes} scenes are read together, at their places on the slide; black lies between them")
    counts = {axis: end - first for axis, (first, end) in extents.items() if axis not in "XYC"}
    if counts.get("Z", 1) > 1:
        middle = counts["Z"] // 2
        numbered = f" (Z = {first_z + middle})" if first_z else ""
        notes.append(f"plane {middle}{numbered} of its {counts['Z']} focal planes is read")
    others = [axis for axis, count in counts.items() if axis != "Z" and count > 1]
    if others:
        notes.append(f"it has several positions along {', '.join(others)}, of which the first is read")
    if is_deep:
        bits = metadata.get("czi.component-bits", "16")
        notes.append(f"its values of {bits} bits are scaled to 8")
    return notes


def _note_of_empty_scenes(planes: Mapping[int, set[_Plane]], chosen: Mapping[str, int]) -> list[str]:
    """A note where scenes have nothing in the plane that is read: they come out black."""
    empty = [
        scene
        for scene, theirs in sorted(planes.items())
        if not any(all(chosen.get(axis, place) == place for axis, place in plane) for plane in theirs)
    ]
    if not empty:
        return []
    shown = ", ".join(str(scene) for scene in empty[:_SHOWN_SCENES])
    more = f" and {len(empty) - _SHOWN_SCENES} more" if len(empty) > _SHOWN_SCENES else ""
    return [f"scene {shown}{more} has nothing in the plane that is read and is black: export one plane of all scenes"]
