"""The metadata of OME-Zarr images (OME-NGFF 0.1 to 0.5): arithmetic on JSON values, no Zarr library.

Source: the OME-NGFF specification, https://ngff.openmicroscopy.org.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MICROMETERS_PER_UNIT = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "inch": 25_400.0,
    "µm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "nm": 1e-3,
}
"""Names of units in `axes`: the specification's, and abbreviations that are met in files."""

AXES = "tczyx"
"""Names of all axes; versions 0.1 and 0.2 name none and have these five."""

_PURE_COLOURS = ("FF0000", "00FF00", "0000FF")


class NgffError(Exception):
    """What is wrong with an image's metadata, in words that follow the file's name."""


@dataclass(frozen=True)
class Dataset:
    """One level of a pyramid."""

    path: str
    """Of its array, relative to the image's group."""
    scale: Mapping[str, float]
    """By axis: units per pixel; empty where the file gives none."""


@dataclass(frozen=True)
class Multiscale:
    """The pyramid of one image."""

    axes: str
    """One letter an axis, in the arrays' order, such as "tczyx"."""
    datasets: tuple[Dataset, ...]
    micrometers_per_unit: Mapping[str, float]
    """For x and y, where the file states a unit of length."""

    @property
    def mpp(self) -> Mapping[str, float]:
        """µm/px of the first dataset along x and y, where the file states them."""
        scale = self.datasets[0].scale
        return {axis: scale[axis] * unit for axis, unit in self.micrometers_per_unit.items() if axis in scale}


@dataclass(frozen=True)
class Planes:
    """Which planes of an image become red, green and blue."""

    channels: tuple[int, ...]
    """Three channel numbers, or one for grey."""
    t: int
    z: int
    notes: tuple[str, ...]


def ome_attributes(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The OME part of a group's attributes: under `ome` from version 0.5 on, the attributes themselves before."""
    ome = attributes.get("ome")
    return ome if isinstance(ome, Mapping) else attributes


def parse_multiscale(attributes: Mapping[str, Any]) -> Multiscale:
    """The first pyramid that a group's OME attributes describe.

    Raises:
        NgffError: there is none, or its description is not as the specification has it.
    """
    entry = _first_mapping(attributes.get("multiscales"), "`multiscales`")
    axes, units = _axes(entry.get("axes"))
    shared = _scale(entry.get("coordinateTransformations"), axes)
    listed = entry.get("datasets")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise NgffError("its `multiscales` lists no `datasets`")
    datasets = []
    for item in listed:
        path = item.get("path") if isinstance(item, Mapping) else None
        if not isinstance(path, str) or not path:
            raise NgffError("a dataset of its `multiscales` has no `path`")
        own = _scale(item.get("coordinateTransformations"), axes)
        datasets.append(Dataset(path, _usable({axis: value * shared.get(axis, 1.0) for axis, value in own.items()})))
    return Multiscale(axes, tuple(datasets), units)


def _axes(value: Any) -> tuple[str, dict[str, float]]:
    """Names of the axes, and µm per unit of x and y where the units are lengths."""
    if value is None:
        return AXES, {}
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise NgffError("its `axes` are not a list")
    names, units = "", {}
    for item in value:
        name = item.get("name") if isinstance(item, Mapping) else item  # version 0.3 lists plain names
        name = name.lower() if isinstance(name, str) else ""
        if len(name) != 1 or name not in AXES or name in names:
            raise NgffError(f"its axis {name or item!r} is none of t, c, z, y and x, or stands twice")
        names += name
        unit = item.get("unit") if isinstance(item, Mapping) else None
        if name in "xy" and isinstance(unit, str) and unit.lower() in MICROMETERS_PER_UNIT:
            units[name] = MICROMETERS_PER_UNIT[unit.lower()]
    if "x" not in names or "y" not in names:
        raise NgffError(f"its axes ({', '.join(names) or 'none'}) lack x or y")
    return names, units


def _scale(transformations: Any, axes: str) -> dict[str, float]:
    """The product of all `scale` transformations, by axis; translations do not matter here."""
    if not isinstance(transformations, Sequence) or isinstance(transformations, str):
        return {}
    scale: dict[str, float] = {}
    for item in transformations:
        factors = item.get("scale") if isinstance(item, Mapping) and item.get("type") == "scale" else None
        if not isinstance(factors, Sequence) or len(factors) != len(axes):
            continue
        for axis, factor in zip(axes, factors, strict=True):
            usable = isinstance(factor, int | float) and math.isfinite(factor) and factor > 0
            if usable:
                scale[axis] = scale.get(axis, 1.0) * float(factor)
    return _usable(scale)


def _usable(scale: Mapping[str, float]) -> dict[str, float]:
    """Without what is no scale: a product of sound factors can be too small, or too large, for a number."""
    return {axis: value for axis, value in scale.items() if math.isfinite(value) and value > 0}


def level_downsamples(
    multiscale: Multiscale, sizes: Sequence[tuple[int, int]]
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Level-0 pixels per pixel of each level, and notes on contradictions.

    The stated scales win: a level of 2 x 2 means has a downsample of exactly 2, while its size is rounded to whole
    pixels. Where they do not fit the sizes, or there are none, the mean ratio of the sizes counts, as in OpenSlide.

    Args:
        multiscale: the image's metadata, its datasets in the order of `sizes`.
        sizes: (width, height) of each level.
    """
    first, found, notes = multiscale.datasets[0].scale, [], []
    for level, (dataset, size) in enumerate(zip(multiscale.datasets, sizes, strict=True)):
        by_size = (sizes[0][0] / size[0] + sizes[0][1] / size[1]) / 2
        ratios = [dataset.scale[axis] / first[axis] for axis in "xy" if axis in dataset.scale and axis in first]
        if len(ratios) < 2:
            found.append(by_size)
            continue
        fits = all(abs(whole / ratio - side) <= 2 for whole, side, ratio in zip(sizes[0], size, ratios, strict=True))
        if not fits:
            notes.append(
                f"level {level} is {size[0]} x {size[1]} px, which its stated scale does not give; "
                f"the downsample is taken from its size ({by_size:g})"
            )
        found.append(sum(ratios) / 2 if fits else by_size)
    return tuple(found), tuple(notes)


def levels_of_same_planes(axes: str, shapes: Sequence[Sequence[int]]) -> tuple[list[int], tuple[str, ...]]:
    """The levels that have each plane of level 0, and notes on those that are left out.

    A pyramid that also gets coarser along z or t has no plane on its coarser levels that shows what a plane of level 0
    shows: a mean of neighbours, or another depth.

    Args:
        axes: one letter an axis.
        shapes: length of each axis, level 0 first.

    Raises:
        NgffError: the levels have different numbers of channels.
    """
    counts = [dict(zip(axes, shape, strict=True)) for shape in shapes]
    channels = list(dict.fromkeys(count.get("c", 1) for count in counts))
    if len(channels) > 1:
        raise NgffError(f"its levels have different numbers of channels ({', '.join(map(str, channels))})")
    kept, notes = [], []
    for level, count in enumerate(counts):
        others = [axis for axis in "zt" if axis in axes and count[axis] != counts[0][axis]]
        if others:
            found = ", ".join(f"{count[axis]} along {axis} where level 0 has {counts[0][axis]}" for axis in others)
            notes.append(f"level {level} is not used: it has {found}")
        else:
            kept.append(level)
    return kept, tuple(notes)


def choose_planes(attributes: Mapping[str, Any], counts: Mapping[str, int]) -> Planes:
    """Which channels, time point and focal plane to read.

    One channel is grey, three are red, green and blue in this order (in the order of their colours where `omero` gives
    them pure red, green and blue), four are that with alpha. Other numbers are fluorescence, which has no
    defined RGB. Of several time points the first counts, of several focal planes the one that `omero` names, else the
    middle one.

    Args:
        attributes: the OME attributes of the image's group.
        counts: length of each axis.

    Raises:
        NgffError: the channels are not an RGB or grey image.
    """
    omero = attributes.get("omero")
    omero = omero if isinstance(omero, Mapping) else {}
    notes = []
    n_channels = counts.get("c", 1)
    if n_channels == 1:
        channels: tuple[int, ...] = (0,)
    elif n_channels in (3, 4):
        channels = _rgb_order(omero, n_channels)
        if channels != (0, 1, 2):
            notes.append(
                f"red, green and blue are its channels {', '.join(map(str, channels))} by their stated colours"
            )
        if n_channels == 4:
            notes.append("its fourth channel is taken for alpha and dropped")
    else:
        raise NgffError(f"it has {n_channels} channels, which are neither grey (1), RGB (3) nor RGBA (4)")
    defaults = omero.get("rdefs")
    default_z = defaults.get("defaultZ") if isinstance(defaults, Mapping) else None
    n_z = counts.get("z", 1)
    z = default_z if isinstance(default_z, int) and 0 <= default_z < n_z else n_z // 2
    if n_z > 1:
        notes.append(f"plane {z} of its {n_z} focal planes is read")
    if counts.get("t", 1) > 1:
        notes.append(f"the first of its {counts['t']} time points is read")
    return Planes(channels, 0, z, tuple(notes))


def _rgb_order(omero: Mapping[str, Any], n_channels: int) -> tuple[int, ...]:
    listed = omero.get("channels")
    listed = listed if isinstance(listed, Sequence) and len(listed) == n_channels else []
    colours = [str(item.get("color", "")).upper() if isinstance(item, Mapping) else "" for item in listed][:3]
    return tuple(colours.index(colour) for colour in _PURE_COLOURS) if set(colours) == set(_PURE_COLOURS) else (0, 1, 2)


def value_range(attributes: Mapping[str, Any], type_maximum: int) -> tuple[float, float]:
    """The values that become 0 and 255 where pixels have more than 8 bits: the range that `omero` states, else all.

    Only `min` and `max` count, what the scanner can give; `start` and `end` are somebody's choice for a display. The
    range is one for all channels, so that colours keep their balance.
    """
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    windows = [item.get("window") for item in channels or [] if isinstance(item, Mapping)]
    ranges = [(window.get("min"), window.get("max")) for window in windows if isinstance(window, Mapping)]
    usable = [
        (float(low), float(high))
        for low, high in ranges
        if isinstance(low, int | float) and isinstance(high, int | float) and 0 <= low < high <= type_maximum
    ]
    if not usable:
        return 0.0, float(type_maximum)
    return min(low for low, _ in usable), max(high for _, high in usable)


def _first_mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value or not isinstance(value[0], Mapping):
        raise NgffError(f"it has no {what}, so it is no OME-Zarr image")
    return value[0]
