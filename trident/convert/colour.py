"""Whatever pixels a plain image has, as 8-bit RGB. Imported only where a file is converted: needs libvips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyvips

from trident.errors import UnreadableSlideError

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Depths of cameras and scanners; files store all above 8 in 16 bits."""

_PROFILE = "icc-profile-data"
_RGB = ("srgb", "rgb", "rgb16", "scrgb")


@dataclass(frozen=True)
class RGBPixels:
    """An image as 8-bit RGB, and what was done to it."""

    image: pyvips.Image
    notes: tuple[str, ...]


def to_rgb8(image: pyvips.Image, path: Path, reopen: Callable[[], pyvips.Image]) -> RGBPixels:
    """An image as 8-bit RGB.

    Alpha is dropped. 16-bit values are divided by the largest value of the file's bit depth, which is the smallest of
    `BIT_DEPTHS` that holds the largest value found: v becomes round(255 * v / (2**depth - 1)). Grey becomes three equal
    channels. An RGB profile is kept; CMYK goes through its profile to sRGB.

    Args:
        image: as libvips opened it, to be read once from top to bottom.
        path: the file, for messages.
        reopen: opens it again, for a first pass over 16-bit pixels.

    Raises:
        UnreadableSlideError: neither 8 nor 16 bits a channel, or not grey, RGB or CMYK.
    """
    notes: list[str] = []
    if image.format not in ("uchar", "ushort"):
        raise UnreadableSlideError(
            path, f"its pixels are of type {image.format}, not 8 or 16 bits without sign; convert them to that first"
        )
    kind = str(image.interpretation)
    has_profile = image.get_typeof(_PROFILE) != 0
    if kind == "cmyk" and image.bands >= 4:
        image = image.extract_band(0, n=4)
        image = image.icc_transform("srgb", embedded=True) if has_profile else image.colourspace("srgb")
        notes.append("CMYK was converted to sRGB")
        if has_profile:
            image = _without_profile(image)
    elif image.bands <= 2:  # the second is alpha
        image = image.extract_band(0)
        if has_profile:
            image = _without_profile(image)
            notes.append("its grey profile does not fit RGB and was left out")
        image = image.bandjoin([image, image])
    elif kind in _RGB and image.bands in (3, 4):
        image = image.extract_band(0, n=3)
    else:
        raise UnreadableSlideError(
            path,
            f"it has {image.bands} channels of kind {kind}, not grey, RGB or CMYK; write what is to be shown as RGB",
        )
    if image.format == "ushort":
        depth = _bit_depth(reopen())
        image = image.linear(255 / (2**depth - 1), 0).rint().cast("uchar")
        notes.append(f"its 16-bit values, of {depth} bits, were scaled to 8")
    elif image.format != "uchar":
        image = image.cast("uchar")
    return RGBPixels(image.copy(interpretation="srgb"), tuple(notes))


def _bit_depth(image: pyvips.Image) -> int:
    """The depth that holds every colour value of an image; its alpha does not count."""
    colours = {1: 1, 2: 1, 3: 3, 4: 3}.get(image.bands, image.bands)
    largest = int(image.extract_band(0, n=colours).max())
    return next(depth for depth in BIT_DEPTHS if largest < 2**depth)


def _without_profile(image: pyvips.Image) -> pyvips.Image:
    image = image.copy()
    image.remove(_PROFILE)
    return image
