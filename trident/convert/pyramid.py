"""Writes a pyramidal TIFF with libvips, and reads back what one of ours says about itself.

The recipe stands as JSON in the ImageDescription of level 0. Imported late: tifffile is heavy, and libvips, which only
the function that writes needs, may not be there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import tifffile

from trident.convert.levels import TILE_PX, level_sizes
from trident.errors import SlideError, StoreError
from trident.slides.diagnosis import one_line
from trident.slides.eligibility import PARSE_ERRORS
from trident.store.recipes import RECIPE_KEY, Recipe

if TYPE_CHECKING:
    import pyvips


def shrunk(image: pyvips.Image, factor: int, path: Path) -> pyvips.Image:
    """The image with each square of `factor` pixels averaged; a rest at the right and at the bottom is cut off.

    Args:
        image: to shrink.
        factor: a whole number.
        path: where it comes from, for messages.

    Raises:
        SlideError: not one pixel would be left.
    """
    if factor == 1:
        return image
    width_px, height_px = image.width // factor, image.height // factor
    if not width_px or not height_px:
        raise SlideError(path, f"it has only {image.width} x {image.height} px; choose a smaller --downscale_by")
    whole = image.crop(0, 0, width_px * factor, height_px * factor)
    # In floating point: libvips averages rows and columns one after the other, and bytes would be rounded in between.
    return whole.cast("float").shrink(factor, factor).rint().cast("uchar")


def write_pyramid(
    image: pyvips.Image,
    path: Path,
    *,
    mpp: float,
    quality: int,
    profile: bytes | None,
    bigtiff: bool,
    recipe: Recipe,
) -> None:
    """Write a tiled pyramid of JPEG; the image is read once, from top to bottom.

    Args:
        image: 8-bit RGB.
        path: file to write.
        mpp: µm/px, for the resolution tags.
        quality: of JPEG; from 90 on the colours are kept at full resolution.
        profile: ICC profile.
        bigtiff: whether to write BigTIFF.
        recipe: goes into ImageDescription.

    Raises:
        pyvips.Error: the image cannot be read, or the file not be written.
        StoreError: the file has not the levels that it should have.
    """
    import pyvips

    image = image.copy(xres=1000 / mpp, yres=1000 / mpp)
    # Everything that another program's file says about itself goes: it need not be true of this one.
    for name in image.get_fields():
        if name == "image-description" or name.startswith(("exif-", "xmp-", "iptc-", "openslide.", "tiff.")):
            image.remove(name)
    if image.get_typeof("orientation"):
        image.remove("orientation")
    image.set_type(pyvips.GValue.gstr_type, "image-description", json.dumps({RECIPE_KEY: recipe.to_dict()}))
    if profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    image.tiffsave(
        str(path),
        tile=True,
        tile_width=TILE_PX,
        tile_height=TILE_PX,
        pyramid=True,
        compression="jpeg",
        Q=quality,
        resunit="cm",
        bigtiff=bigtiff,
        keep=pyvips.enums.ForeignKeep.ICC | pyvips.enums.ForeignKeep.OTHER,
    )
    require_levels(path, level_sizes(image.width, image.height))


def require_levels(path: Path, sizes: list[tuple[int, int]]) -> None:
    """Check that a TIFF has these levels and no other page.

    Raises:
        StoreError: it has not.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            found = [(page.imagewidth, page.imagelength) for page in cast(list[tifffile.TiffPage], list(tiff.pages))]
    except PARSE_ERRORS as error:
        raise StoreError(
            f"{path}: what was written is no TIFF ({one_line(error)}); check the disk, run again"
        ) from error
    if found != sizes:
        raise StoreError(f"{path}: it was written with levels {found}, not {sizes}; please report this")


def read_recipe(path: Path) -> Recipe | None:
    """The recipe of a pyramid; None where it carries none (another program wrote it).

    Raises:
        StoreError: not a readable TIFF, damaged, or cut off.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            description = tiff.pages.first.description
            n_levels = len(tiff.pages)
    except PARSE_ERRORS as error:
        raise StoreError(f"{path}: not a readable TIFF ({one_line(error)}); delete it and run again") from error
    if not description.startswith("{"):
        return None
    try:
        content = json.loads(description)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or RECIPE_KEY not in content:
        return None
    recipe = Recipe.from_dict(content[RECIPE_KEY], path)
    if recipe.facts.get("levels") != n_levels:
        raise StoreError(f"{path}: it has {n_levels} of {recipe.facts.get('levels')} levels; it is made anew")
    return recipe
