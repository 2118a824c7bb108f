"""8-bit RGB from other pixels, against arithmetic in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pyvips = pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")

from trident.convert.colour import to_rgb8  # noqa: E402 - needs libvips
from trident.errors import UnreadableSlideError  # noqa: E402

PATH = Path("image.tif")


def _to_rgb8(array: NDArray[Any], interpretation: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    image = pyvips.Image.new_from_array(array, interpretation=interpretation)
    result = to_rgb8(image, PATH, lambda: image)
    return result.image.numpy(), result.notes


@pytest.mark.parametrize(("largest", "depth"), [(255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (65535, 16)])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_16_bits_are_scaled_by_the_depth_that_holds_the_largest(largest: int, depth: int, bands: int) -> None:
    array = np.random.default_rng(depth).integers(0, largest + 1, (20, 30, bands), dtype=np.uint16)
    array[3, 4, 0] = largest
    if bands == 4:
        array[..., 3] = 65535  # alpha says nothing about the depth
    found, notes = _to_rgb8(array, "grey16" if bands == 1 else "rgb16")
    expected = np.rint(array[..., : min(bands, 3)].astype(float) * (255 / (2**depth - 1)))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (20, 30, 3)), atol=1)
    assert (found != expected).mean() < 0.01  # single against double precision, at .5
    assert notes == (f"its 16-bit values, of {depth} bits, were scaled to 8",)


@pytest.mark.parametrize(("bands", "kind"), [(1, "b-w"), (2, "b-w"), (3, "srgb"), (4, "srgb")])
def test_8_bits_keep_their_values_and_lose_alpha(bands: int, kind: str) -> None:
    array = np.random.default_rng(bands).integers(0, 256, (9, 11, bands), dtype=np.uint8)
    found, notes = _to_rgb8(array, kind)
    np.testing.assert_array_equal(found, np.broadcast_to(array[..., : 3 if bands > 2 else 1], (9, 11, 3)))
    assert notes == ()


def test_cmyk_becomes_rgb() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    array[..., 0] = 255  # cyan
    found, notes = _to_rgb8(array, "cmyk")
    red, green, blue = found[0, 0].astype(int)
    assert red < 60 < min(green, blue)
    assert notes == ("CMYK was converted to sRGB",)


@pytest.mark.parametrize(
    ("array", "kind", "says"),
    [
        (np.zeros((4, 4, 3), np.float32), "scrgb", "its pixels are of type float"),
        (np.zeros((4, 4, 1), np.int16), "b-w", "its pixels are of type short"),
        (np.zeros((4, 4, 7), np.uint8), "multiband", "it has 7 channels of kind multiband"),
        (np.zeros((4, 4, 3), np.uint8), "b-w", "it has 3 channels of kind b-w"),
        (np.zeros((4, 4, 5), np.uint16), "grey16", "it has 5 channels of kind grey16"),
        (np.zeros((4, 4, 5), np.uint8), "srgb", "it has 5 channels of kind srgb"),
    ],
)
def test_other_pixels_are_refused(array: NDArray[Any], kind: str, says: str) -> None:
    with pytest.raises(UnreadableSlideError, match=says):
        _to_rgb8(array, kind)
