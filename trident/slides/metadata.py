"""Resolution (µm/px) and magnification of a slide from its metadata; plain arithmetic on text, no image library."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import MissingMppError

OME_KEY, OME_DOWN_KEY = "ome.PhysicalSizeX", "ome.PhysicalSizeY"
"""µm/px across and down, which an OME-TIFF states with its unit."""

MPP_KEYS = (
    OME_KEY,
    "openslide.mpp-x",
    "openslide.mirax.MPP",
    "aperio.MPP",
    "hamamatsu.XResolution",
    "omezarr.mpp-x",
    "czi.mpp-x",
    "sdpc.mpp",
    "openslide.comment",
)
"""Metadata keys that may hold µm/px directly, best first; the user's own keys come after them.

OME-XML goes before what OpenSlide says, which in such a file is the TIFF tags: programs that write OME-TIFF leave these
at whatever they were."""

TIFF_RESOLUTION_KEY = "tiff.XResolution"
TIFF_RESOLUTION_DOWN_KEY = "tiff.YResolution"
TIFF_UNIT_KEY = "tiff.ResolutionUnit"
_OPENSLIDE_MPP_KEY, _OPENSLIDE_VENDOR_KEY = "openslide.mpp-x", "openslide.vendor"
GENERIC_TIFF = "generic-tiff"
"""OpenSlide's name of a tiled TIFF that no scanner's software wrote; its µm/px it takes from the TIFF tags."""
MICROMETERS_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}

OBJECTIVE_KEYS = ("openslide.objective-power", "aperio.AppMag", "czi.objective-power", "sdpc.rate")
"""Metadata keys of the objective power that the scanner claims, best first."""

ACROSS_AND_DOWN_KEYS = (
    (OME_KEY, OME_DOWN_KEY),
    ("openslide.mpp-x", "openslide.mpp-y"),
    ("hamamatsu.XResolution", "hamamatsu.YResolution"),
    ("omezarr.mpp-x", "omezarr.mpp-y"),
    ("czi.mpp-x", "czi.mpp-y"),
)
"""Keys of the µm/px across and down a pixel."""

MAGNIFICATION_BELOW_MPP = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""(µm/px, magnification): a level 0 finer than the first has the second."""

MPP_AT_1X = 10.0
"""Nominal µm/px at 1x, by which 20x is about 0.5 µm/px and 40x about 0.25."""

GIVEN = "given"
"""`mpp_source` of a value that the user gave."""

MPP_TOLERANCE = 0.01
"""Two statements of µm/px that differ by more than this share contradict each other."""

ASPECT_TOLERANCE = 0.01
"""Pixels whose width and height differ by more than this share are not square; scanners differ by some tenths of 1%."""

OBJECTIVE_TOLERANCE = 0.2
"""An objective power that differs by more than this share from the magnification of the table contradicts the µm/px."""

PRINT_MPP = 20.0
"""Coarser TIFF tags are the resolution of a print (72 dpi and the like), which says nothing about the specimen."""

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


def is_from_tiff_tags(properties: Mapping[str, str], key: str | None) -> bool:
    """Whether what a metadata key says is the TIFF resolution tags, which many programs fill in unasked."""
    if key == _OPENSLIDE_MPP_KEY:
        return properties.get(_OPENSLIDE_VENDOR_KEY) == GENERIC_TIFF
    return key == TIFF_RESOLUTION_KEY


def is_of_print(properties: Mapping[str, str], key: str | None, mpp: float) -> bool:
    """Whether the µm/px that a metadata key states is the resolution of a print; see `PRINT_MPP`."""
    return mpp > PRINT_MPP and is_from_tiff_tags(properties, key)


@dataclass(frozen=True)
class MppCandidate:
    """A metadata key that may hold µm/px, and what it holds."""

    key: str
    text: str
    """The value as it stands in the file; for the TIFF tags with its unit."""
    mpp: float | None
    """µm/px, or None where the text is no usable number."""


def mpp_candidates(properties: Mapping[str, str], custom_keys: Sequence[str] = ()) -> list[MppCandidate]:
    """The keys of the metadata that may hold µm/px, best first: `MPP_KEYS`, then `custom_keys`, then the TIFF tags.

    A key whose value is not a bare positive number is passed over (`mpp` is None): a comment, for one, is usually a
    long text.
    """
    keys = [key for key in dict.fromkeys((*MPP_KEYS, *custom_keys)) if key in properties]
    found = [MppCandidate(key, properties[key], positive_number(properties[key])) for key in keys]
    if TIFF_RESOLUTION_KEY in properties:
        text = f"{properties[TIFF_RESOLUTION_KEY]} per {properties.get(TIFF_UNIT_KEY, 'unknown unit')}"
        found.append(MppCandidate(TIFF_RESOLUTION_KEY, text, _mpp_of_tiff_tag(properties, TIFF_RESOLUTION_KEY)))
    return found


def objective_power(properties: Mapping[str, str]) -> tuple[float, str] | None:
    """The objective power that the metadata claims, such as 20.0, and its key; None where no key holds one."""
    for key in OBJECTIVE_KEYS:
        power = positive_number(properties.get(key, "").strip().rstrip("xX"))
        if power is not None:
            return power, key
    return None


def mpp_from_properties(properties: Mapping[str, str], custom_keys: Sequence[str] = ()) -> tuple[float, str] | None:
    """µm/px of level 0 from a slide's metadata, and the key that it came from.

    Returns:
        (µm/px, key) of the first of `mpp_candidates` with a usable number, or None.
    """
    for candidate in mpp_candidates(properties, custom_keys):
        if candidate.mpp is not None:
            return candidate.mpp, candidate.key
    return None


def _mpp_of_tiff_tag(properties: Mapping[str, str], key: str) -> float | None:
    pixels_per_unit = positive_number(properties.get(key))
    unit = properties.get(TIFF_UNIT_KEY, "").strip().lower()
    if pixels_per_unit is None or unit not in MICROMETERS_PER_UNIT:
        return None
    mpp = MICROMETERS_PER_UNIT[unit] / pixels_per_unit
    return mpp if is_positive_finite(mpp) else None


def resolve_resolution(
    path: Path, properties: Mapping[str, str], given_mpp: float | None, custom_keys: Sequence[str] = ()
) -> Resolution:
    """The resolution to use: the user's own value where there is one, else the metadata's.

    Every reader asks here, so that every slide's notes say where its metadata contradicts itself or the value used.

    Raises:
        MissingMppError: the given value is not a positive finite number.
    """
    found = mpp_from_properties(properties, custom_keys)
    if given_mpp is not None:
        if not is_positive_finite(given_mpp):
            raise MissingMppError(
                path, f"the given resolution of {given_mpp} µm/px is not a positive number; correct it"
            )
        found = given_mpp, GIVEN
    if found is None:
        return Resolution(None, None, _hint_of_objective(properties))
    return Resolution(*found, contradictions(properties, *found, custom_keys))


def contradictions(
    properties: Mapping[str, str], mpp: float, source: str, custom_keys: Sequence[str] = ()
) -> tuple[str, ...]:
    """Where a slide's metadata contradicts the µm/px that is used, or itself; one line each.

    Args:
        properties: the slide's metadata.
        mpp: µm/px of level 0 that is used.
        source: its key, or `GIVEN`.
        custom_keys: further keys that may hold µm/px.
    """
    others = _other_statements(properties, mpp_candidates(properties, custom_keys), mpp)
    objective = _other_objective(properties, mpp)
    notes = []
    if others and source == GIVEN:  # the user has decided: one line will do
        told = [*others, objective] if objective else others
        notes.append(f"the given {mpp:g} µm/px is used; the file's own metadata says {', '.join(told)}")
    else:
        if others:
            notes.append(f"{mpp:g} µm/px ({source}) is used; the file's own metadata also says {', '.join(others)}")
        if objective:
            counts_as = table_magnification(mpp)
            counts = "is coarser than 5x" if counts_as is None else f"counts as {counts_as}x"
            notes.append(f"its metadata says {objective}, but {mpp:g} µm/px {counts}; the µm/px decides")
    return (*notes, *_not_square(properties))


def _other_statements(properties: Mapping[str, str], candidates: Sequence[MppCandidate], mpp: float) -> list[str]:
    """Other values than `mpp` with the keys that state them."""
    keys_of: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.mpp is None or abs(candidate.mpp - mpp) <= MPP_TOLERANCE * mpp:
            continue
        if is_of_print(properties, candidate.key, candidate.mpp):
            continue
        keys_of.setdefault(f"{candidate.mpp:g}", []).append(candidate.key)
    return [f"{value} ({', '.join(keys)})" for value, keys in keys_of.items()]


def _not_square(properties: Mapping[str, str]) -> tuple[str, ...]:
    sides = [
        (keys, positive_number(properties.get(keys[0])), positive_number(properties.get(keys[1])))
        for keys in ACROSS_AND_DOWN_KEYS
    ]
    tags = (TIFF_RESOLUTION_KEY, TIFF_RESOLUTION_DOWN_KEY)
    sides.append((tags, _mpp_of_tiff_tag(properties, tags[0]), _mpp_of_tiff_tag(properties, tags[1])))
    for keys, across, down in sides:
        if across is None or down is None or min(across, down) > PRINT_MPP:
            continue
        if keys[0] == OME_KEY and abs(across - down) <= ASPECT_TOLERANCE * min(across, down):
            return ()  # the tags of such a file say nothing
        if abs(across - down) > ASPECT_TOLERANCE * min(across, down):
            return (
                f"its pixels are not square: {across:g} µm across ({keys[0]}), {down:g} µm down ({keys[1]}); "
                "one value is used for both, so lengths and areas are off in one direction",
            )
    return ()


def _other_objective(properties: Mapping[str, str], mpp: float) -> str | None:
    """The claimed objective power, where `mpp` counts as another magnification."""
    claimed = objective_power(properties)
    if claimed is None:
        return None
    power, key = claimed
    magnification = table_magnification(mpp)
    if magnification is not None and abs(power - magnification) <= OBJECTIVE_TOLERANCE * magnification:
        return None
    return f"objective power {power:g}x ({key})"


def _hint_of_objective(properties: Mapping[str, str]) -> tuple[str, ...]:
    claimed = objective_power(properties)
    if claimed is None:
        return ()
    power, key = claimed
    return (
        f"it has no µm/px; its objective power of {power:g}x ({key}) would mean about {MPP_AT_1X / power:.3g}, "
        "which is a guess and is not used",
    )


def table_magnification(mpp: float) -> int | None:
    """Magnification (80, 60, 40, 20, 10 or 5) of a level 0 with `mpp` µm/px; None where it is coarser than 5x."""
    return next((magnification for limit_mpp, magnification in MAGNIFICATION_BELOW_MPP if mpp < limit_mpp), None)


def magnification_from_mpp(mpp: float, path: Path) -> int:
    """Level-0 magnification (80, 60, 40, 20, 10 or 5) of a slide with `mpp` µm/px.

    Raises:
        MissingMppError: `mpp` is coarser than 5x allows, or not a positive finite number.
    """
    if is_positive_finite(mpp):
        magnification = table_magnification(mpp)
        if magnification is not None:
            return magnification
        problem = f"its level 0 has {mpp:g} µm/px, coarser than 5x ({MAGNIFICATION_BELOW_MPP[-1][0]} µm/px)"
    else:
        problem = f"{mpp} µm/px is not a resolution"
    raise MissingMppError(
        path,
        f"{problem}; if that is wrong, give the right value in the `mpp` column of --custom_list_of_wsis, "
        "or name the metadata key that holds it with --custom_mpp_keys",
    )
