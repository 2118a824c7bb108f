from __future__ import annotations

from typing import Any

import pytest

from trident.slides.ngff import (
    Dataset,
    Multiscale,
    NgffError,
    choose_planes,
    level_downsamples,
    levels_of_same_planes,
    ome_attributes,
    parse_multiscale,
    value_range,
)


def described(axes: str, unit: str | None = "micrometer", scale: float = 0.25) -> dict[str, Any]:
    return {
        "axes": [{"name": axis, "type": "space", **({"unit": unit} if unit and axis in "yx" else {})} for axis in axes],
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [scale] * len(axes)}]},
            {"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [scale * 2] * len(axes)}]},
        ],
    }


@pytest.mark.parametrize(
    ("unit", "scale", "mpp"),
    [
        ("micrometer", 0.25, 0.25),
        ("Micrometer", 0.25, 0.25),
        ("nanometer", 250, 0.25),
        ("millimeter", 0.00025, 0.25),
        ("meter", 2.5e-7, 0.25),
        ("angstrom", 2500, 0.25),
        ("inch", 0.25 / 25400, 0.25),
        ("µm", 0.5, 0.5),
        (None, 0.25, None),
        ("parsec", 0.25, None),
        ("pixel", 1, None),
    ],
)
def test_resolution(unit: str | None, scale: float, mpp: float | None) -> None:
    found = parse_multiscale({"multiscales": [described("tczyx", unit, scale)]}).mpp
    assert found == ({} if mpp is None else {"y": pytest.approx(mpp), "x": pytest.approx(mpp)})


def test_scales_of_the_image_and_of_the_dataset_multiply() -> None:
    entry = described("cyx")
    entry["coordinateTransformations"] = [
        {"type": "scale", "scale": [1, 2, 4]},
        {"type": "translation", "translation": [9, 9, 9]},
    ]
    found = parse_multiscale({"multiscales": [entry]})
    assert found.mpp == {"y": 0.5, "x": 1.0}
    assert [dataset.path for dataset in found.datasets] == ["0", "1"]


@pytest.mark.parametrize("scale", [[0.25], "abc", [0, 0, 0], [-1, -1, -1], ["x"] * 3, [float("nan")] * 3, None, 7])
def test_a_scale_that_is_none_is_left_out(scale: Any) -> None:
    entry = described("cyx")
    entry["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "scale": scale}]
    assert parse_multiscale({"multiscales": [entry]}).mpp == {}


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_a_product_of_scales_that_is_no_number_is_left_out(factor: float) -> None:
    entry = described("cyx")
    twice = [{"type": "scale", "scale": [1, factor, factor]}] * 2
    entry["datasets"][0]["coordinateTransformations"] = twice
    assert set(parse_multiscale({"multiscales": [entry]}).datasets[0].scale) == {"c"}
    entry["datasets"][0]["coordinateTransformations"] = twice[:1]
    entry["coordinateTransformations"] = twice[:1]
    multiscale = parse_multiscale({"multiscales": [entry]})
    assert multiscale.mpp == {}
    assert level_downsamples(multiscale, [(200, 100), (100, 50)]) == ((1.0, 2.0), ())


def test_older_versions_name_axes_as_strings_or_not_at_all() -> None:
    datasets = [{"path": "0"}]
    assert parse_multiscale({"multiscales": [{"axes": ["c", "y", "x"], "datasets": datasets}]}).axes == "cyx"
    assert parse_multiscale({"multiscales": [{"datasets": datasets}]}).axes == "tczyx"


def test_version_0_5_keeps_its_attributes_under_ome() -> None:
    assert ome_attributes({"ome": {"multiscales": []}, "multiscales": 1}) == {"multiscales": []}
    assert ome_attributes({"multiscales": []}) == {"multiscales": []}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "no `multiscales`"),
        ({"multiscales": []}, "no `multiscales`"),
        ({"multiscales": "x"}, "no `multiscales`"),
        ({"multiscales": [5]}, "no `multiscales`"),
        ({"multiscales": [{}]}, "no `datasets`"),
        ({"multiscales": [{"datasets": "abc"}]}, "no `datasets`"),
        ({"multiscales": [{"datasets": [{}]}]}, "no `path`"),
        ({"multiscales": [{"datasets": [7]}]}, "no `path`"),
        ({"multiscales": [{"axes": 5, "datasets": [{"path": "0"}]}]}, "not a list"),
        ({"multiscales": [{"axes": ["q"], "datasets": [{"path": "0"}]}]}, "'q' is none of"),
        ({"multiscales": [{"axes": [{}], "datasets": [{"path": "0"}]}]}, "is none of"),
        ({"multiscales": [{"axes": ["y", "x", "x"], "datasets": [{"path": "0"}]}]}, "stands twice"),
        ({"multiscales": [{"axes": ["c", "y"], "datasets": [{"path": "0"}]}]}, "lack x or y"),
    ],
)
def test_metadata_that_is_none(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(NgffError, match=words):
        parse_multiscale(attributes)


def pyramid(*scales: float | None) -> Multiscale:
    return Multiscale("yx", tuple(Dataset("0", {"y": s, "x": s} if s else {}) for s in scales), {})


@pytest.mark.parametrize(
    ("scales", "sizes", "expected", "n_notes"),
    [
        ((0.25, 0.5, 1), [(1001, 801), (500, 400), (250, 200)], (1, 2, 4), 0),
        ((0.25, 0.5), [(1001, 801), (501, 401)], (1, 2), 0),
        ((1, 1), [(1000, 800), (250, 200)], (1, 4), 1),
        ((None, None), [(1000, 800), (250, 200)], (1, 4), 0),
        ((None, None), [(1000, 820), (250, 200)], (1, 4.05), 0),
    ],
)
def test_downsamples(scales: Any, sizes: Any, expected: tuple[float, ...], n_notes: int) -> None:
    found, notes = level_downsamples(pyramid(*scales), sizes)
    assert found == pytest.approx(expected)
    assert len(notes) == n_notes


def coloured(*colours: str) -> dict[str, Any]:
    return {"omero": {"channels": [{"color": colour} for colour in colours]}}


@pytest.mark.parametrize(
    ("attributes", "counts", "channels", "n_notes"),
    [
        ({}, {}, (0,), 0),
        ({}, {"c": 1}, (0,), 0),
        ({}, {"c": 3}, (0, 1, 2), 0),
        ({}, {"c": 4}, (0, 1, 2), 1),
        (coloured("FF0000", "00FF00", "0000FF"), {"c": 3}, (0, 1, 2), 0),
        (coloured("0000ff", "00ff00", "ff0000"), {"c": 3}, (2, 1, 0), 1),
        (coloured("0000FF", "FF0000", "00FF00"), {"c": 3}, (1, 2, 0), 1),
        (coloured("FFFFFF", "FFFFFF", "FFFFFF"), {"c": 3}, (0, 1, 2), 0),
        (coloured("FF0000"), {"c": 3}, (0, 1, 2), 0),
        ({"omero": {"channels": [1, 2, 3]}}, {"c": 3}, (0, 1, 2), 0),
        ({"omero": 5}, {"c": 3}, (0, 1, 2), 0),
    ],
)
def test_channels(attributes: dict[str, Any], counts: dict[str, int], channels: tuple[int, ...], n_notes: int) -> None:
    planes = choose_planes(attributes, counts)
    assert planes.channels == channels
    assert len(planes.notes) == n_notes


@pytest.mark.parametrize("n_channels", [2, 5, 40])
def test_fluorescence_is_refused(n_channels: int) -> None:
    with pytest.raises(NgffError, match=f"{n_channels} channels"):
        choose_planes({}, {"c": n_channels})


@pytest.mark.parametrize(("default", "expected"), [(None, 2), (3, 3), (0, 0), (9, 2), ("x", 2)])
def test_the_focal_plane(default: Any, expected: int) -> None:
    planes = choose_planes({"omero": {"rdefs": {"defaultZ": default}}}, {"z": 5, "t": 3})
    assert (planes.z, planes.t) == (expected, 0)
    assert len(planes.notes) == 2


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([], (0, 65535)),
        ([{"min": 0, "max": 4095, "start": 100, "end": 900}], (0, 4095)),
        ([{"min": 10, "max": 4095}, {"min": 0, "max": 1023}], (0, 4095)),
        ([{"min": 5, "max": 5}], (0, 65535)),
        ([{"min": 0, "max": 1e9}, "x", {"max": None}], (0, 65535)),
    ],
)
def test_the_range_of_deep_pixels(windows: list[Any], expected: tuple[float, float]) -> None:
    attributes = {"omero": {"channels": [{"window": window} for window in windows]}}
    assert value_range(attributes, 65535) == expected


@pytest.mark.parametrize(
    ("axes", "shapes", "kept", "n_notes"),
    [
        ("cyx", [(3, 8, 8), (3, 4, 4)], [0, 1], 0),
        ("yx", [(8, 8), (4, 4)], [0, 1], 0),
        ("czyx", [(3, 10, 8, 8), (3, 8, 4, 4), (3, 10, 2, 2)], [0, 2], 1),
        ("tczyx", [(2, 3, 10, 8, 8), (1, 3, 5, 4, 4), (1, 3, 10, 2, 2)], [0], 2),
        ("zyx", [(2, 8, 8), (3, 4, 4)], [0], 1),
    ],
)
def test_levels_with_other_planes_are_left_out(
    axes: str, shapes: list[tuple[int, ...]], kept: list[int], n_notes: int
) -> None:
    found, notes = levels_of_same_planes(axes, shapes)
    assert found == kept
    assert len(notes) == n_notes


def test_levels_with_other_channels_are_refused() -> None:
    with pytest.raises(NgffError, match=r"different numbers of channels \(3, 1\)"):
        levels_of_same_planes("cyx", [(3, 8, 8), (3, 4, 4), (1, 2, 2)])
