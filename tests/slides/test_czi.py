from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trident.errors import NotAvailableError, UnreadableSlideError
from trident.slides.registry import open_slide

czi = pytest.importorskip("pylibCZIrw.czi")


@pytest.mark.parametrize("origin", [(0, 0), (-135_417, 20_011), (77, -90)])
def test_the_rectangle_around_the_pixels_begins_at_zero(
    origin: tuple[int, int], tmp_path: Path, write_czi: Any, scene_levels: dict[int, np.ndarray]
) -> None:
    with open_slide(write_czi(tmp_path / "a.czi", scene_levels, origin=origin)) as slide:
        assert (slide.reader_type, slide.name, slide.dimensions) == ("czi", "a", (1000, 830))
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        for level, image in enumerate(scene_levels.values()):
            assert np.array_equal(slide.read_region((0, 0), level, slide.level_dimensions[level]), image)


def test_levels_of_three(tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    levels = {1: scene, 3: scene[:828:3, :999:3], 9: scene[:828:9, :999:9]}
    with open_slide(write_czi(tmp_path / "a.czi", levels)) as slide:
        assert slide.level_downsamples == (1.0, 3.0, 9.0)
        for level, image in enumerate(levels.values()):
            assert np.array_equal(slide.read_region((0, 0), level, slide.level_dimensions[level]), image)


def test_scenes_are_read_together_with_black_between(tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    second = np.ascontiguousarray(scene[:200, :300])
    path = write_czi(tmp_path / "a.czi", {1: scene}, origin=(0, 0), others=[(second, (1500, 100), 1, {})])
    with open_slide(path) as slide:
        assert slide.dimensions == (1800, 830)
        assert slide.notes == ["its 2 scenes are read together, at their places on the slide; black lies between them"]
        assert np.array_equal(slide.read_region((1500, 100), 0, (300, 200)), second)
        assert not slide.read_region((1000, 0), 0, (500, 830)).any()
        assert (slide.thumbnail((1800, 830))[:, 1010:1490] == 255).all()


@pytest.mark.parametrize(("bits", "top"), [(None, 65535), (12, 4095), (99, 65535)])
def test_deep_grey(bits: int | None, top: int, tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    deep = scene[..., 1].astype(np.uint16) * (top // 255)
    path = write_czi(tmp_path / "a.czi", {1: deep}, origin=(0, 0))
    if bits is not None:
        with czi.edit_czi(str(path)) as editor, editor.edit_session() as builder:
            xml = builder.get_xml(True)
            assert "<SizeX>" in xml
            builder.set_xml(xml.replace("<SizeX>", f"<ComponentBitCount>{bits}</ComponentBitCount><SizeX>", 1))
    with open_slide(path) as slide:
        found = slide.read_region((0, 0), 0, slide.dimensions)
        expected = np.round(deep * (255 / top))
        assert np.array_equal(found, np.repeat(expected[..., np.newaxis], 3, axis=2))
        assert "bits are scaled to 8" in slide.notes[0]


@pytest.mark.parametrize(("depths_of_second", "dark"), [((0,), True), ((0, 1, 2), False), ((2,), True), ((1,), False)])
def test_a_scene_that_lacks_the_focal_plane_is_told_of(
    depths_of_second: tuple[int, ...], dark: bool, tmp_path: Path, write_czi: Any, scene: np.ndarray
) -> None:
    second = np.ascontiguousarray(scene[:200, :300])
    others = [(scene, (0, 0), 0, {"Z": depth}) for depth in (1, 2)]
    others += [(second, (1500, 100), 1, {"Z": depth}) for depth in depths_of_second]
    with open_slide(write_czi(tmp_path / "a.czi", {1: scene}, origin=(0, 0), others=others)) as slide:
        assert slide.read_region((1500, 100), 0, (300, 200)).any() != dark
        told = "scene 1 has nothing in the plane that is read and is black: export one plane of all scenes"
        assert (told in slide.notes) == dark


def test_the_middle_focal_plane(tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    planes = [(scene // (plane + 1), (0, 0), 0, {"Z": plane}) for plane in (1, 2)]
    with open_slide(write_czi(tmp_path / "a.czi", {1: scene}, origin=(0, 0), others=planes)) as slide:
        assert "plane 1 of its 3 focal planes is read" in slide.notes
        assert np.array_equal(slide.read_region((0, 0), 0, (50, 50)), scene[:50, :50] // 2)


@pytest.mark.parametrize(
    ("planes", "expected"),
    [
        ([{"Z": 5}, {"Z": 6}, {"Z": 7}], 1),
        ([{"T": 3}, {"T": 4}], 0),
        ([{"C": 2}], 0),
        ([{"C": 2, "Z": 8, "T": 1}, {"C": 2, "Z": 9, "T": 1}], 1),
    ],
)
def test_dimensions_need_not_begin_at_0(
    planes: list[dict[str, int]], expected: int, tmp_path: Path, write_czi: Any, scene: np.ndarray
) -> None:
    others = [(scene // (number + 1), (0, 0), 0, plane) for number, plane in enumerate(planes)]
    with open_slide(write_czi(tmp_path / "a.czi", {}, others=others)) as slide:
        found = slide.read_region((0, 0), 0, (50, 50))
        assert np.array_equal(found, scene[:50, :50] // (expected + 1))


def test_several_channels_are_refused(tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    grey = np.ascontiguousarray(scene[..., 0])
    path = write_czi(tmp_path / "a.czi", {1: grey}, origin=(0, 0), others=[(grey, (0, 0), 0, {"C": 1})])
    with pytest.raises(UnreadableSlideError, match="2 channels"):
        open_slide(path)


def test_without_a_scale_the_resolution_is_unknown(tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    path = write_czi(tmp_path / "a.czi", {1: scene}, mpp=0)
    with open_slide(path) as slide:
        assert slide.mpp_or_none is None
    with open_slide(path, mpp=0.5) as slide:
        assert slide.mpp_source == "given"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"hello" * 500, "does not open as a CZI"),
        (0.5, "does not open as a CZI|does not parse"),
        (0.01, "does not open as a CZI|does not parse"),
    ],
)
def test_what_does_not_open(content: Any, words: str, tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    path = tmp_path / "a.czi"
    if isinstance(content, float):
        data = write_czi(path, {1: scene}).read_bytes()
        path.write_bytes(data[: int(len(data) * content)])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableSlideError, match=words) as caught:
        open_slide(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_damaged_tile_is_an_error(tmp_path: Path, write_czi: Any, scene: np.ndarray) -> None:
    path = write_czi(tmp_path / "a.czi", {1: scene // 16 * 16}, compression="zstd0:ExplicitLevel=3", origin=(0, 0))
    data = bytearray(path.read_bytes())
    at = data.find(b"\x28\xb5\x2f\xfd")  # how a Zstandard frame begins
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(UnreadableSlideError, match=r"region at \(10, 10\) of level 0 does not decode"):
            slide.read_region((10, 10), 0, (50, 50))
        assert np.array_equal(slide.read_region((600, 600), 0, (50, 50)), scene[600:650, 600:650] // 16 * 16)


def test_without_its_library_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibCZIrw", None)
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
    with pytest.raises(NotAvailableError, match=r"pip install 'trident-luigi\[czi\]'"):
        open_slide(tmp_path / "a.czi")
