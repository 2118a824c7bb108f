"""trident/viz/colormaps.py: the tables, against what is published about them."""

from __future__ import annotations

import numpy as np
import pytest

from trident.errors import SettingsError
from trident.viz.colormaps import COLORMAP_NAMES, color_table


@pytest.mark.parametrize("name", COLORMAP_NAMES)
def test_every_table(name: str) -> None:
    table = color_table(name)
    assert (table.shape, table.dtype) == ((256, 3), np.dtype(np.uint8))
    assert len(np.unique(table, axis=0)) > 100
    np.testing.assert_array_equal(color_table(f"{name}_r"), table[::-1])


@pytest.mark.parametrize(
    ("name", "index", "colour"),
    [
        ("coolwarm", 0, (59, 76, 192)),
        ("coolwarm", 128, (221, 220, 220)),
        ("coolwarm", 255, (180, 4, 38)),
        ("viridis", 0, (68, 1, 84)),
        ("viridis", 255, (253, 231, 37)),
        ("jet", 255, (128, 0, 0)),
        ("bwr", 0, (0, 0, 255)),
        ("gray", 77, (77, 77, 77)),
    ],
)
def test_known_colours(name: str, index: int, colour: tuple[int, int, int]) -> None:
    assert np.abs(color_table(name)[index].astype(int) - colour).max() <= 2


def test_coolwarm_is_even() -> None:
    """Lightness rises to the grey in the middle and falls again, in steps of nearly one size."""
    from skimage.color import rgb2lab

    lab = rgb2lab(color_table("coolwarm")[np.newaxis] / 255)[0]
    assert np.diff(lab[:127, 0]).min() > -0.5
    assert np.diff(lab[129:, 0]).max() < 0.5
    assert abs(lab[127:129, 0].mean() - 88) < 1
    steps = np.linalg.norm(np.diff(lab[::8], axis=0), axis=1)
    assert steps.max() < 1.3 * steps.min()


def test_unknown() -> None:
    with pytest.raises(SettingsError, match=r"unknown colour map 'coolwrm'; did you mean coolwarm\? \(known: coolwarm"):
        color_table("coolwrm")
