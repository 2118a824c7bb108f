"""How to read the patches of any coordinates file: one with the contract's attributes, or one written by CLAM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trident.errors import MissingMppError, SettingsError, StoreError
from trident.patching.grid import PatchGeometry, ReadPlan, int_where_whole, plan_read, plan_read_at
from trident.slides.base import Slide

_GRID_ATTRIBUTES = ("patch_size", "level0_magnification", "target_magnification")
_MPP_ATTRIBUTES = ("target_mpp", "level0_mpp")
"""Beside those, where the grid was laid by µm/px."""
_CLAM_ATTRIBUTES = ("patch_size", "patch_level")


class StoredPatches(NamedTuple):
    """What the attributes of a coordinates file say about its patches."""

    plan: ReadPlan
    """How their pixels are read."""
    attributes: dict[str, int | float | str]
    """The contract's attributes and any other single values of the file, to be carried on into features files.

    CLAM does not record `overlap`: it stands as 0. Its magnifications are left out where the slide's is unknown.
    """

    @property
    def patch_size_level0(self) -> int:
        """Side of a patch in level-0 pixels, as the attribute of that name says."""
        return int(self.attributes["patch_size_level0"])


def plan_from_attributes(
    attributes: Mapping[str, object], slide: Slide, *, source: Path | str = "the coordinates file"
) -> StoredPatches:
    """Interpret the attributes of a `coords` dataset, whichever tool wrote it.

    Args:
        attributes: as read from the file; numpy scalars and arrays of one element are taken as numbers.
        slide: the slide that the coordinates belong to.
        source: the coordinates file, for messages.

    Returns:
        The plan and the attributes to carry on; unpacks as a pair.

    Raises:
        StoreError: attributes are missing, have unusable values, or belong to another slide.
    """
    if all(key in attributes for key in _GRID_ATTRIBUTES):
        return _from_grid(attributes, slide, source)
    if all(key in attributes for key in _CLAM_ATTRIBUTES):
        return _from_clam(attributes, slide, source)
    clam_like = "patch_level" in attributes or "custom_downsample" in attributes
    missing = [key for key in (_CLAM_ATTRIBUTES if clam_like else _GRID_ATTRIBUTES) if key not in attributes]
    alternative = "" if clam_like else " (a file written by CLAM would have patch_size and patch_level)"
    raise StoreError(
        f"{source}: the dataset coords lacks the attributes {', '.join(missing)}{alternative}, so its patches cannot "
        "be read; make the coordinates anew with --task coords"
    )


def geometry_from_attributes(
    attributes: Mapping[str, object], slide: Slide, *, source: Path | str = "the coordinates file"
) -> PatchGeometry:
    """The patch grid that a file with the contract's attributes was made with.

    `overlap`, `level0_width` and `level0_height` may be missing: 0 and the slide's own dimensions then stand.

    Raises:
        StoreError: attributes are missing, have unusable values, or give dimensions that are not the slide's.
    """
    missing = [key for key in _GRID_ATTRIBUTES if key not in attributes]
    if missing:
        raise StoreError(f"{source}: the dataset coords lacks the attributes {', '.join(missing)}")
    width_px, height_px = slide.dimensions
    stated = (
        _whole(attributes, "level0_width", source, default=width_px),
        _whole(attributes, "level0_height", source, default=height_px),
    )
    if stated != (width_px, height_px):
        raise StoreError(
            f"{source}: its coordinates were made on a slide of {stated[0]} x {stated[1]} px, but {slide.path} has "
            f"{width_px} x {height_px} px; make the coordinates anew with --task coords --overwrite"
        )
    patch_size_px = _whole(attributes, "patch_size", source)
    overlap_px = _whole(attributes, "overlap", source, default=0)
    target_magnification = _number(attributes, "target_magnification", source)
    level0_magnification = _number(attributes, "level0_magnification", source)
    try:
        if all(key in attributes for key in _MPP_ATTRIBUTES):
            return PatchGeometry.at_mpp(
                patch_size_px=patch_size_px,
                overlap_px=overlap_px,
                target_mpp=_number(attributes, "target_mpp", source),
                level0_mpp=_number(attributes, "level0_mpp", source),
                level0_magnification=level0_magnification,
                level0_width_px=width_px,
                level0_height_px=height_px,
            )
        return PatchGeometry(
            patch_size_px=patch_size_px,
            overlap_px=overlap_px,
            target_magnification=target_magnification,
            level0_magnification=level0_magnification,
            level0_width_px=width_px,
            level0_height_px=height_px,
        )
    except SettingsError as error:
        raise StoreError(f"{source}: the attributes of the dataset coords make no patch grid: {error}") from error


def _from_grid(attributes: Mapping[str, object], slide: Slide, source: Path | str) -> StoredPatches:
    geometry = geometry_from_attributes(attributes, slide, source=source)
    contract = geometry.attributes(slide.name, "")
    if "patch_size_level0" in attributes:
        contract["patch_size_level0"] = _whole(attributes, "patch_size_level0", source)
    return StoredPatches(
        plan=plan_read(geometry, slide.level_downsamples),
        attributes={**_single_values(attributes), **contract, **_names(attributes, slide)},
    )


def _from_clam(attributes: Mapping[str, object], slide: Slide, source: Path | str) -> StoredPatches:
    patch_size_px = _whole(attributes, "patch_size", source)
    level = _whole(attributes, "patch_level", source)
    custom_downsample = _number(attributes, "custom_downsample", source, default=1.0)
    if patch_size_px < 1 or custom_downsample <= 0:
        raise StoreError(
            f"{source}: patch_size {patch_size_px} and custom_downsample {custom_downsample:g} must both be positive"
        )
    if not 0 <= level < len(slide.level_downsamples):
        raise StoreError(
            f"{source}: its patches lie on level {level}, but {slide.path} has {len(slide.level_downsamples)} levels; "
            "these coordinates belong to another file of the slide"
        )
    downsample = slide.level_downsamples[level] * custom_downsample
    width_px, height_px = slide.dimensions
    contract: dict[str, int | float | str] = {
        "patch_size": patch_size_px,
        "patch_size_level0": round(patch_size_px * downsample),
        **_clam_magnifications(slide, downsample),
        "overlap": 0,
        "level0_width": width_px,
        "level0_height": height_px,
    }
    return StoredPatches(
        plan=plan_read_at(patch_size_px, downsample, slide.level_downsamples),
        attributes={**_single_values(attributes), **contract, **_names(attributes, slide)},
    )


def _names(attributes: Mapping[str, object], slide: Slide) -> dict[str, int | float | str]:
    """`name` and `savetodir`, which CLAM calls `save_path`."""
    given = _single_values(attributes)
    return {"name": given.get("name", slide.name), "savetodir": given.get("savetodir", given.get("save_path", ""))}


def _single_values(attributes: Mapping[str, object]) -> dict[str, int | float | str]:
    """The attributes that are one number or one text, as plain Python values."""
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in attributes.items()}
    decoded = {
        key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for key, value in plain.items()
    }
    return {key: value for key, value in decoded.items() if isinstance(value, (int, float, str))}


def _clam_magnifications(slide: Slide, downsample: float) -> dict[str, int | float]:
    """CLAM needs no magnification, so a slide without one is no error here."""
    try:
        level0 = slide.magnification
    except MissingMppError:
        return {}
    # A level's downsample is often 4.0001: three decimals turn 9.99975x into 10x.
    return {"level0_magnification": level0, "target_magnification": int_where_whole(round(level0 / downsample, 3))}


def _number(attributes: Mapping[str, object], key: str, source: Path | str, default: float | None = None) -> float:
    if default is not None and key not in attributes:
        return float(default)
    try:
        number = float(np.asarray(attributes[key]).item())
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise StoreError(f"{source}: the attribute {key} of the dataset coords is not a number: {attributes[key]!r}")
    return number


def _whole(attributes: Mapping[str, object], key: str, source: Path | str, default: int | None = None) -> int:
    number = _number(attributes, key, source, default)
    if not number.is_integer():
        raise StoreError(f"{source}: the attribute {key} of the dataset coords is {number:g}, not a whole number")
    return int(number)
