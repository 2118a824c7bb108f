from __future__ import annotations

from pathlib import Path

import pytest

from trident.errors import MissingMppError
from trident.slides.metadata import magnification_from_mpp, mpp_from_properties, resolve_resolution

PATH = Path("a/slide.svs")


@pytest.mark.parametrize(
    ("properties", "custom_keys", "expected"),
    [
        ({"openslide.mpp-x": "0.499", "aperio.MPP": "0.25"}, (), (0.499, "openslide.mpp-x")),
        ({"aperio.MPP": "0.25", "hamamatsu.XResolution": "3"}, (), (0.25, "aperio.MPP")),
        ({"openslide.mirax.MPP": " 0.23 ", "aperio.MPP": "0.25"}, (), (0.23, "openslide.mirax.MPP")),
        ({"hamamatsu.XResolution": "0.45", "openslide.comment": "0.1"}, (), (0.45, "hamamatsu.XResolution")),
        ({"openslide.comment": "2.5e-1"}, (), (0.25, "openslide.comment")),
        ({"openslide.comment": "Aperio |MPP = 0.25", "mine": "0.3"}, ("mine",), (0.3, "mine")),
        ({"openslide.mpp-x": "0.5", "mine": "0.3"}, ("mine",), (0.5, "openslide.mpp-x")),
        ({"one": "n/a", "two": ".4"}, ("absent", "one", "two"), (0.4, "two")),
        (
            {"mine": "0.3", "tiff.XResolution": "20000", "tiff.ResolutionUnit": "centimeter"},
            ("mine",),
            (0.3, "mine"),
        ),
        ({"tiff.XResolution": "20000", "tiff.ResolutionUnit": "centimeter"}, (), (0.5, "tiff.XResolution")),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, (), (0.5, "tiff.XResolution")),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "none"}, (), None),
        ({"tiff.XResolution": "50800"}, (), None),
        ({"tiff.XResolution": "0", "tiff.ResolutionUnit": "inch"}, (), None),
        ({"tiff.XResolution": "1e-320", "tiff.ResolutionUnit": "inch"}, (), None),
        ({}, (), None),
    ],
)
def test_the_first_usable_key_wins(
    properties: dict[str, str], custom_keys: tuple[str, ...], expected: tuple[float, str] | None
) -> None:
    found = mpp_from_properties(properties, custom_keys)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == pytest.approx(expected[0])
        assert found[1] == expected[1]


@pytest.mark.parametrize("value", ["0", "-0.25", "nan", "inf", "-inf", "1e999", "", "0,25", "0.25 um", "1_0", "0x1"])
@pytest.mark.parametrize("key", ["openslide.mpp-x", "openslide.comment", "mine"])
def test_a_value_that_is_no_positive_number_is_passed_over(key: str, value: str) -> None:
    properties = {key: value, "tiff.XResolution": "10000", "tiff.ResolutionUnit": "centimeter"}
    assert mpp_from_properties(properties, ("mine",)) == (1.0, "tiff.XResolution")


@pytest.mark.parametrize(
    ("mpp", "magnification"),
    [
        *((0.01, 80), (0.159, 80), (0.16, 60), (0.199, 60), (0.2, 40), (0.25, 40), (0.299, 40), (0.3, 20)),
        *((0.499, 20), (0.599, 20), (0.6, 10), (1.199, 10), (1.2, 5), (2.399, 5)),
    ],
)
def test_magnification_table(mpp: float, magnification: int) -> None:
    assert magnification_from_mpp(mpp, PATH) == magnification


@pytest.mark.parametrize(
    ("mpp", "words"),
    [
        (2.4, "coarser than 5x"),
        (352.8, "352.8"),
        (0.0, "not a resolution"),
        (-0.25, "-0.25"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_a_useless_resolution_is_an_error_that_says_how_to_give_one(mpp: float, words: str) -> None:
    with pytest.raises(MissingMppError) as caught:
        magnification_from_mpp(mpp, PATH)
    message = str(caught.value)
    assert message.startswith(str(PATH))
    assert words in message
    assert "--custom_list_of_wsis" in message
    assert "--custom_mpp_keys" in message


def test_the_given_value_wins_and_a_contradiction_is_noted() -> None:
    properties = {"aperio.MPP": "0.5"}
    plain = resolve_resolution(PATH, properties, None)
    assert (plain.mpp, plain.source, plain.notes) == (0.5, "aperio.MPP", ())
    close = resolve_resolution(PATH, properties, 0.504)
    assert (close.mpp, close.source, close.notes) == (0.504, "given", ())
    far = resolve_resolution(PATH, properties, 0.25)
    assert (far.mpp, far.source) == (0.25, "given")
    assert len(far.notes) == 1
    assert "0.25" in far.notes[0]
    assert "0.5 (aperio.MPP)" in far.notes[0]
    nothing = resolve_resolution(PATH, {}, None)
    assert (nothing.mpp, nothing.source) == (None, None)


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan"), float("inf")])
def test_a_given_value_must_be_positive(given: float) -> None:
    with pytest.raises(MissingMppError, match="not a positive number"):
        resolve_resolution(PATH, {"aperio.MPP": "0.5"}, given)
