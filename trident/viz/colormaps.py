"""Colour maps by their usual names: a table of 256 colours each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from trident.encoders.names import explain_unknown
from trident.errors import SettingsError

Table = NDArray[np.uint8]

_COOL_RGB = (59, 76, 192)
_WARM_RGB = (180, 4, 38)
_MID_LIGHTNESS = 88.0
"""Radius of the grey between cool and warm, in the paper's polar form of CIELAB."""
_XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE_XYZ = _XYZ_OF_RGB.sum(axis=1)  # D65, as the primaries add up to it
_LAB_LINEAR_BELOW = 6 / 29


def _opencv(code: int) -> Callable[[], Table]:
    def make() -> Table:
        steps = np.arange(256, dtype=np.uint8).reshape(-1, 1)
        return np.ascontiguousarray(cv2.applyColorMap(steps, code)[:, 0, ::-1], dtype=np.uint8)

    return make


def _through(*colours: tuple[int, int, int]) -> Callable[[], Table]:
    def make() -> Table:
        where = np.linspace(0, 1, len(colours))
        channels = [np.interp(np.linspace(0, 1, 256), where, channel) for channel in zip(*colours, strict=True)]
        return np.stack(channels, axis=1).round().astype(np.uint8)

    return make


def _coolwarm() -> Table:
    """Blue over grey to red, evenly in lightness and saturation (Moreland 2009, "Diverging Color Maps ...")."""
    share = np.linspace(0, 1, 256)
    cool, warm = _to_polar(_COOL_RGB), _to_polar(_WARM_RGB)
    halves = [
        _between(cool, _grey_beside(cool), share[share < 0.5] * 2),
        _between(_grey_beside(warm), warm, share[share >= 0.5] * 2 - 1),
    ]
    return _to_rgb(np.concatenate(halves))


def _between(start: NDArray[np.float64], end: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    return start + (end - start) * share[:, np.newaxis]


def _grey_beside(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """The grey in the middle, with the hue that makes the way from `colour` to it look straight."""
    lightness, saturation, hue = colour
    turn = saturation * np.sqrt(_MID_LIGHTNESS**2 - lightness**2) / (lightness * np.sin(saturation))
    return np.array([_MID_LIGHTNESS, 0.0, hue + (turn if hue > -np.pi / 3 else -turn)])


def _to_polar(rgb: tuple[int, int, int]) -> NDArray[np.float64]:
    """sRGB 0..255 -> (radius, saturation angle, hue angle) of CIELAB."""
    plain = np.array(rgb) / 255
    linear = np.where(plain > 0.04045, ((plain + 0.055) / 1.055) ** 2.4, plain / 12.92)
    ratio = _XYZ_OF_RGB @ linear / _WHITE_XYZ
    f = np.where(ratio > _LAB_LINEAR_BELOW**3, np.cbrt(ratio), ratio / (3 * _LAB_LINEAR_BELOW**2) + 4 / 29)
    lab = np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    radius = float(np.linalg.norm(lab))
    return np.array([radius, np.arccos(lab[0] / radius), np.arctan2(lab[2], lab[1])])


def _to_rgb(polar: NDArray[np.float64]) -> Table:
    """(N, 3) of `_to_polar` -> sRGB 0..255."""
    radius, saturation, hue = polar.T
    light = (radius * np.cos(saturation) + 16) / 116
    chroma = radius * np.sin(saturation)
    f = np.stack([light + chroma * np.cos(hue) / 500, light, light - chroma * np.sin(hue) / 200])
    ratio = np.where(f > _LAB_LINEAR_BELOW, f**3, 3 * _LAB_LINEAR_BELOW**2 * (f - 4 / 29))
    linear = np.linalg.solve(_XYZ_OF_RGB, ratio * _WHITE_XYZ[:, np.newaxis]).clip(0, 1)
    plain = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92)
    return (plain.T * 255).round().astype(np.uint8)


_MAKERS: Mapping[str, Callable[[], Table]] = MappingProxyType(
    {
        "coolwarm": _coolwarm,
        "bwr": _through((0, 0, 255), (255, 255, 255), (255, 0, 0)),
        "gray": _through((0, 0, 0), (255, 255, 255)),
        "Reds": _through((255, 245, 240), (251, 106, 74), (103, 0, 13)),
        **{
            name: _opencv(getattr(cv2, f"COLORMAP_{name.upper()}"))
            for name in ("viridis", "plasma", "inferno", "magma", "cividis", "turbo", "jet", "hot", "rainbow", "bone")
        },
    }
)

COLORMAP_NAMES: tuple[str, ...] = tuple(_MAKERS)
"""Names that are understood; each also with `_r` at its end, for the reversed order."""


def color_table(name: str) -> Table:
    """The colours of a map, uint8 (256, 3) RGB, from the lowest value to the highest.

    Raises:
        SettingsError: no such map; the message offers the closest name.
    """
    plain = name.removesuffix("_r")
    if plain not in _MAKERS:
        raise SettingsError(explain_unknown("colour map", name, COLORMAP_NAMES))
    table = _MAKERS[plain]()
    return table[::-1] if name != plain else table
