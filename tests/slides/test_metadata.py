from __future__ import annotations

from pathlib import Path

import pytest

from trident.errors import MissingMppError
from trident.slides.metadata import (
    ASPECT_TOLERANCE,
    MPP_TOLERANCE,
    OBJECTIVE_TOLERANCE,
    MppCandidate,
    is_of_print,
    magnification_from_mpp,
    mpp_candidates,
    mpp_from_properties,
    objective_power,
    resolve_resolution,
)

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


@pytest.mark.parametrize(("vendor", "mpp", "n_notes"), [("generic-tiff", 352.8, 0), ("aperio", 352.8, 1)])
def test_the_resolution_of_a_print_is_passed_over(vendor: str, mpp: float, n_notes: int) -> None:
    """OpenSlide copies the tags of a plain TIFF into a key of its own."""
    properties = {"openslide.vendor": vendor, "openslide.mpp-x": str(mpp)}
    assert len(resolve_resolution(PATH, properties, 0.5).notes) == n_notes
    tags = {"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"}
    assert len(resolve_resolution(PATH, properties | tags, 0.5).notes) == n_notes
    assert is_of_print(properties, "openslide.mpp-x", mpp) == (n_notes == 0)
    assert not is_of_print(properties, "openslide.mpp-x", 0.5)


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan"), float("inf")])
def test_a_given_value_must_be_positive(given: float) -> None:
    with pytest.raises(MissingMppError, match="not a positive number"):
        resolve_resolution(PATH, {"aperio.MPP": "0.5"}, given)


X, Y, POWER = "openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"
TIFF_X, TIFF_Y, UNIT = "tiff.XResolution", "tiff.YResolution", "tiff.ResolutionUnit"
CM = {UNIT: "centimeter"}


@pytest.mark.parametrize(
    ("properties", "custom_keys"),
    [
        ({}, ()),
        ({X: "0.25", Y: "0.25", POWER: "40", "aperio.MPP": "0.2500", "aperio.AppMag": "40"}, ()),
        ({X: "0.499", POWER: "20"}, ()),
        ({X: "0.4564", Y: "0.4551", POWER: "20"}, ()),  # Hamamatsu: 0.3 % between the sides
        ({X: "0.25", TIFF_X: "40000", TIFF_Y: "40000", **CM}, ()),
        ({X: "0.25", TIFF_X: "28.35", TIFF_Y: "28.35", **CM}, ()),  # 72 dpi: said of a print
        ({X: "0.25", TIFF_X: "40000"}, ()),  # without a unit it says nothing
        ({X: "0.25", POWER: "37"}, ()),
        ({X: "0.17", POWER: "63"}, ()),  # a 63x objective; the table knows 60
        ({X: "0.25", POWER: "unknown", "openslide.comment": "of patient 7"}, ()),
        ({X: "0.5", "mine": "0.503"}, ("mine",)),
        ({X: "0.25", "not asked for": "0.5"}, ()),
        ({TIFF_X: "20000", TIFF_Y: "20000", **CM}, ()),
    ],
)
def test_what_agrees_makes_no_note(properties: dict[str, str], custom_keys: tuple[str, ...]) -> None:
    assert resolve_resolution(PATH, properties, None, custom_keys).notes == ()


@pytest.mark.parametrize(
    ("properties", "custom_keys", "words"),
    [
        ({X: "0.25", "aperio.MPP": "0.5"}, (), [["0.25 µm/px (openslide.mpp-x) is used", "0.5 (aperio.MPP)"]]),
        ({X: "0.25", TIFF_X: "20000", **CM}, (), [["0.5 (tiff.XResolution)"]]),
        ({X: "0.25", TIFF_X: "25400", UNIT: "inch"}, (), [["1 (tiff.XResolution)"]]),
        ({X: "0.5", "mine": "0.25", "yours": "0.250"}, ("mine", "yours"), [["0.25 (mine, yours)"]]),
        ({X: "0.25", Y: "0.5"}, (), [["not square", "0.25 µm across (openslide.mpp-x)", "0.5 µm down"]]),
        ({TIFF_X: "20000", TIFF_Y: "40000", **CM}, (), [["not square", "(tiff.XResolution)", "(tiff.YResolution)"]]),
        ({X: "0.5", POWER: "40"}, (), [["objective power 40x (openslide.objective-power)", "0.5 µm/px counts as 20x"]]),
        ({X: "0.25", "aperio.AppMag": "20x"}, (), [["20x (aperio.AppMag)", "counts as 40x"]]),
        ({X: "352.8", POWER: "20"}, (), [["objective power 20x", "352.8 µm/px is coarser than 5x"]]),
        ({POWER: "20"}, (), [["no µm/px", "20x", "about 0.5", "not used"]]),
        (
            {X: "0.5", Y: "0.6", "aperio.MPP": "0.25", POWER: "40"},
            (),
            [["0.25 (aperio.MPP)"], ["objective power 40x"], ["not square"]],
        ),
    ],
)
def test_contradictions_are_noted(
    properties: dict[str, str], custom_keys: tuple[str, ...], words: list[list[str]]
) -> None:
    notes = resolve_resolution(PATH, properties, None, custom_keys).notes
    assert len(notes) == len(words)
    for note, expected in zip(notes, words, strict=True):
        assert "\n" not in note
        assert [word for word in expected if word not in note] == []


def test_a_given_value_is_told_against_all_of_the_metadata_in_one_note() -> None:
    properties = {X: "0.25", "aperio.MPP": "0.25", POWER: "40", TIFF_X: "10000", **CM}
    (note,) = resolve_resolution(PATH, properties, 0.5).notes
    assert note == (
        "the given 0.5 µm/px is used; the file's own metadata says 0.25 (openslide.mpp-x, aperio.MPP), "
        "1 (tiff.XResolution), objective power 40x (openslide.objective-power)"
    )


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_tolerances(share: float) -> None:
    noted = share > 1
    other = {X: "0.5", "aperio.MPP": f"{0.5 * (1 + share * MPP_TOLERANCE)}"}
    sides = {X: "0.5", Y: f"{0.5 * (1 + share * ASPECT_TOLERANCE)}"}
    power = {X: "0.5", POWER: f"{20 * (1 + share * OBJECTIVE_TOLERANCE)}"}
    for properties in (other, sides, power):
        assert bool(resolve_resolution(PATH, properties, None).notes) == noted, properties


def test_every_key_that_is_there_is_a_candidate() -> None:
    properties = {"mine": "a", TIFF_X: "20000", "aperio.MPP": "0.5", X: "none", "other": "1", UNIT: "centimeter"}
    assert mpp_candidates(properties, ("mine", "absent", "aperio.MPP")) == [
        MppCandidate(X, "none", None),
        MppCandidate("aperio.MPP", "0.5", 0.5),
        MppCandidate("mine", "a", None),
        MppCandidate(TIFF_X, "20000 per centimeter", 0.5),
    ]
    assert mpp_candidates({TIFF_X: "72"}) == [MppCandidate(TIFF_X, "72 per unknown unit", None)]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({POWER: "20", "aperio.AppMag": "40"}, (20.0, POWER)),
        ({POWER: "", "aperio.AppMag": " 40X "}, (40.0, "aperio.AppMag")),
        ({POWER: "-20"}, None),
        ({POWER: "x"}, None),
        ({}, None),
    ],
)
def test_objective_power(properties: dict[str, str], expected: tuple[float, str] | None) -> None:
    assert objective_power(properties) == expected
