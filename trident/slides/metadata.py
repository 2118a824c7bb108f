"""Resolution (µm/px) and magnification of a slide from its metadata; plain arithmetic on text, no image library."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import MissingMppError

MPP_KEYS = (
    "openslide.mpp-x",
    "openslide.mirax.MPP",
    "aperio.MPP",
    "hamamatsu.XResolution",
    "openslide.comment",
)
"""Metadata keys that may hold µm/px directly, best first; the user's own keys come after them."""

TIFF_RESOLUTION_KEY = "tiff.XResolution"
TIFF_UNIT_KEY = "tiff.ResolutionUnit"
MICROMETERS_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}

MAGNIFICATION_BELOW_MPP = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""(µm/px, magnification): a level 0 finer than the first has the second."""

GIVEN = "given"
"""`mpp_source` of a value that the user gave."""

_CONTRADICTION_SHARE = 0.01
# Stricter than float(): that also takes "1_000", "nan" and "infinity".
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Resolution:
    """What is known of a slide's resolution: µm/px of level 0, where it comes from, and what a user should know."""

    mpp: float | None
    source: str | None
    notes: tuple[str, ...] = ()


def is_positive_finite(value: float) -> bool:
    """Whether `value` can be a resolution at all."""
    return math.isfinite(value) and value > 0


def positive_number(text: str | None) -> float | None:
    """The positive finite decimal number that `text` is, or None where it is anything else."""
    if text is None or _DECIMAL.fullmatch(text.strip()) is None:
        return None
    value = float(text)
    return value if is_positive_finite(value) else None


def mpp_from_properties(properties: Mapping[str, str], custom_keys: Sequence[str] = ()) -> tuple[float, str] | None:
    """µm/px of level 0 from a slide's metadata, and the key that it came from.

    The keys of `MPP_KEYS` are tried first, then `custom_keys`, then the TIFF resolution tags. A key whose value is not
    a bare positive number is passed over: a comment, for one, is usually a long text.

    Returns:
        (µm/px, key), or None where no key holds a usable number.
    """
    for key in (*MPP_KEYS, *custom_keys):
        value = positive_number(properties.get(key))
        if value is not None:
            return value, key
    pixels_per_unit = positive_number(properties.get(TIFF_RESOLUTION_KEY))
    unit = properties.get(TIFF_UNIT_KEY, "").strip().lower()
    if pixels_per_unit is None or unit not in MICROMETERS_PER_UNIT:
        return None
    mpp = MICROMETERS_PER_UNIT[unit] / pixels_per_unit
    return (mpp, TIFF_RESOLUTION_KEY) if is_positive_finite(mpp) else None


def resolve_resolution(
    path: Path, properties: Mapping[str, str], given_mpp: float | None, custom_keys: Sequence[str] = ()
) -> Resolution:
    """The resolution to use: the user's own value where there is one, else the metadata's.

    Raises:
        MissingMppError: the given value is not a positive finite number.
    """
    found = mpp_from_properties(properties, custom_keys)
    if given_mpp is None:
        return Resolution(None, None) if found is None else Resolution(*found)
    if not is_positive_finite(given_mpp):
        raise MissingMppError(path, f"the given resolution of {given_mpp} µm/px is not a positive number; correct it")
    if found is not None and abs(found[0] - given_mpp) > _CONTRADICTION_SHARE * given_mpp:
        note = f"the given {given_mpp:g} µm/px is used; the file's own metadata says {found[0]:g} ({found[1]})"
        return Resolution(given_mpp, GIVEN, (note,))
    return Resolution(given_mpp, GIVEN)


def magnification_from_mpp(mpp: float, path: Path) -> int:
    """Level-0 magnification (80, 60, 40, 20, 10 or 5) of a slide with `mpp` µm/px.

    Raises:
        MissingMppError: `mpp` is coarser than 5x allows, or not a positive finite number.
    """
    if is_positive_finite(mpp):
        for limit_mpp, magnification in MAGNIFICATION_BELOW_MPP:
            if mpp < limit_mpp:
                return magnification
        problem = f"its level 0 has {mpp:g} µm/px, coarser than 5x ({MAGNIFICATION_BELOW_MPP[-1][0]} µm/px)"
    else:
        problem = f"{mpp} µm/px is not a resolution"
    raise MissingMppError(
        path,
        f"{problem}; if that is wrong, give the right value in the `mpp` column of --custom_list_of_wsis, "
        "or name the metadata key that holds it with --custom_mpp_keys",
    )
