from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trident.errors import NotAvailableError, UnreadableSlideError
from trident.slides.registry import open_slide

pytest.importorskip("zarr", minversion="3")


def whole(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_region((0, 0), 0, slide.dimensions)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "tcyx", "cyx", "yxc", "zcyx"])
def test_axes_in_any_order(
    axes: str, version: str, tmp_path: Path, write_omezarr: Any, scene_levels: dict[int, np.ndarray]
) -> None:
    path = write_omezarr(tmp_path / "a.zarr", scene_levels, axes=axes, version=version)
    with open_slide(path) as slide:
        assert (slide.reader_type, slide.name, slide.mpp) == ("omezarr", "a", 0.25)
        assert slide.notes == []
        for level, image in enumerate(scene_levels.values()):
            assert np.array_equal(slide.read_region((0, 0), level, slide.level_dimensions[level]), image)


@pytest.mark.parametrize("axes", ["yx", "zyx", "cyx"])
def test_grey_becomes_rgb(axes: str, tmp_path: Path, write_omezarr: Any, scene: np.ndarray) -> None:
    grey = np.ascontiguousarray(scene[..., 1])
    found = whole(write_omezarr(tmp_path / "a.zarr", {1: grey}, axes=axes))
    assert np.array_equal(found, np.repeat(grey[..., np.newaxis], 3, axis=2))


def test_channels_by_colour_and_alpha(tmp_path: Path, write_omezarr: Any, scene: np.ndarray) -> None:
    omero = {"channels": [{"color": colour} for colour in ("0000FF", "00FF00", "FF0000")]}
    assert np.array_equal(whole(write_omezarr(tmp_path / "a.zarr", {1: scene[..., ::-1]}, omero=omero)), scene)
    with_alpha = np.dstack([scene, scene[..., :1]])
    assert np.array_equal(whole(write_omezarr(tmp_path / "b.zarr", {1: with_alpha})), scene)
    with pytest.raises(UnreadableSlideError, match="5 channels"):
        open_slide(write_omezarr(tmp_path / "c.zarr", {1: np.dstack([scene, scene[..., :2]])}))


def test_planes_and_deep_pixels(tmp_path: Path, write_omezarr: Any, scene: np.ndarray) -> None:
    omero = {"rdefs": {"defaultZ": 2}, "channels": [{"window": {"min": 0, "max": 4095}}] * 3}
    deep = (scene.astype(np.uint16) << 4) + 7
    path = write_omezarr(tmp_path / "a.zarr", {1: deep}, others={"z": 3, "t": 2}, omero=omero)
    with open_slide(path) as slide:
        expected = np.clip(np.round(deep * (255 / 4095)), 0, 255)
        assert np.array_equal(slide.read_region((0, 0), 0, slide.dimensions), expected)
        notes = " ".join(slide.notes)
        assert "plane 2 of its 3 focal planes" in notes
        assert "first of its 2 time points" in notes
        assert "0 to 4095 are scaled" in notes


def test_a_level_of_fewer_focal_planes_is_not_used(tmp_path: Path, write_omezarr: Any, scene_levels: Any) -> None:
    path = write_omezarr(tmp_path / "a.zarr", scene_levels, others={"z": 2})
    import zarr

    group = zarr.open_group(path, mode="a")
    whole = group["1"]
    fewer = whole[:, :, :1]
    del group["1"]
    group.create_array("1", data=np.ascontiguousarray(fewer), chunks=(*whole.chunks[:2], 1, *whole.chunks[3:]))
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1, 4)
        for level, downsample in enumerate((1, 4)):
            found = slide.read_region((0, 0), level, slide.level_dimensions[level])
            assert np.array_equal(found, scene_levels[downsample])
        assert "level 1 is not used: it has 1 along z where level 0 has 2" in slide.notes


def test_levels_of_different_channels_are_refused(tmp_path: Path, write_omezarr: Any, scene_levels: Any) -> None:
    path = write_omezarr(tmp_path / "a.zarr", {1: scene_levels[1], 2: scene_levels[2][..., 0]})
    with pytest.raises(UnreadableSlideError, match=r"different numbers of channels \(3, 1\)"):
        open_slide(path)


def test_several_images_in_one_folder(tmp_path: Path, write_omezarr: Any, scene_levels: dict[int, np.ndarray]) -> None:
    import zarr

    path = tmp_path / "a.ome.zarr"
    write_omezarr(path, scene_levels, inside="0")
    write_omezarr(path, {1: scene_levels[4]}, inside="1")
    zarr.open_group(path, zarr_format=2).require_group("OME").attrs["series"] = ["0", "1"]
    with open_slide(path) as slide:
        assert (slide.name, slide.dimensions) == ("a", (1000, 830))
        assert slide.notes == ["image 0 is read; the folder holds 1 more"]
    with open_slide(path / "1") as slide:
        assert (slide.reader_type, slide.name, slide.dimensions) == ("omezarr", "a_1", (250, 207))
        assert slide.notes == []


@pytest.mark.parametrize("unit", ["", "micrometer"])
def test_the_resolution_is_known_only_with_its_unit(
    unit: str, tmp_path: Path, write_omezarr: Any, scene: np.ndarray
) -> None:
    path = write_omezarr(tmp_path / "a.zarr", {1: scene}, unit=unit)
    with open_slide(path) as slide:
        assert slide.mpp_or_none == (0.25 if unit else None)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "given")
        assert len(slide.notes) == (1 if unit else 0)


def test_chunks_that_were_never_written_are_black_and_damaged_ones_an_error(
    tmp_path: Path, write_omezarr: Any, scene: np.ndarray
) -> None:
    path = write_omezarr(tmp_path / "a.zarr", {1: scene}, axes="cyx")
    (path / "0" / "0.0.0").unlink()
    chunk = path / "0" / "0.1.1"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with open_slide(path) as slide:
        assert not slide.read_region((0, 0), 0, (128, 128)).any()
        assert np.array_equal(slide.read_region((300, 10), 0, (50, 60)), scene[10:70, 300:350])
        with pytest.raises(UnreadableSlideError, match=r"10 x 10 px region at \(130, 140\) of level 0 does not decode"):
            slide.read_region((130, 140), 0, (10, 10))


def change(name: str, **values: Any) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        file = path / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return act


def write(name: str, text: str) -> Callable[[Path], Any]:
    return lambda path: (path / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda path: (path / ".zgroup").unlink(), "does not open as a Zarr group"),
        (write(".zgroup", "{"), "does not open as a Zarr group"),
        (write(".zgroup", ""), "does not open as a Zarr group"),
        (write(".zattrs", ""), "does not open as a Zarr group"),
        (write(".zattrs", "[" * 100_000), "does not open as a Zarr group"),
        (write(".zattrs", "{}"), "no OME-Zarr image"),
        (write(".zattrs", '{"plate": {}}'), "a plate with many wells"),
        (lambda path: shutil.rmtree(path / "0"), "level '0' does not open"),
        (write("0/.zarray", "{}"), "level '0' does not open"),
        (change("0/.zarray", dtype="<f4"), "pixels are float32"),
        (change("0/.zarray", dtype="|i1"), "pixels are int8"),
        (change("0/.zarray", shape=[830, 1000], chunks=[128, 128]), "does not fit the axes"),
        (change("0/.zarray", shape=[3, 0, 1000]), "does not fit the axes"),
        (change("0/.zarray", shape=[3, 10**9, 10**9]), "more than"),
        (change("0/.zarray", chunks=[3, 10**6, 10**6]), "too many pixels to decode at once"),
        (change("0/.zarray", compressor={"id": "pickle"}), "level '0'"),
        (change("0/.zarray", filters=[{"id": "pickle"}]), "level '0'"),
        (change("0/.zarray", filters=[{"id": "quantize", "digits": 1, "dtype": "<f4"}]), "the codec quantize"),
        (change("1/.zarray", shape=[3, 2000, 2000]), "level 1 is larger"),
    ],
)
def test_what_is_no_slide_is_one_line(
    spoil: Callable[[Path], Any], words: str, tmp_path: Path, write_omezarr: Any, scene_levels: dict[int, np.ndarray]
) -> None:
    path = write_omezarr(tmp_path / "a.zarr", scene_levels, axes="cyx")
    spoil(path)
    with pytest.raises(UnreadableSlideError, match=words) as caught:
        open_slide(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "/etc", "0/../../outside", "", ".."])
def test_a_level_cannot_lie_outside_the_folder(
    name: str, tmp_path: Path, write_omezarr: Any, scene: np.ndarray
) -> None:
    write_omezarr(tmp_path / "outside.zarr", {1: scene})
    (tmp_path / "outside").symlink_to(tmp_path / "outside.zarr" / "0")
    path = write_omezarr(tmp_path / "a.zarr", {1: scene})
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"][0]["path"] = name
    (path / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(UnreadableSlideError):
        open_slide(path)


def test_a_file_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "a.ome.zarr").write_bytes(b"PK")
    with pytest.raises(UnreadableSlideError, match="it is a file; an OME-Zarr slide is a folder"):
        open_slide(tmp_path / "a.ome.zarr")


def test_without_zarr_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    (tmp_path / "a.ome.zarr").mkdir()
    with pytest.raises(NotAvailableError, match=r"pip install 'trident-luigi\[omezarr\]'"):
        open_slide(tmp_path / "a.ome.zarr")


def test_other_formats_do_without_zarr() -> None:
    code = "import sys, trident.slides.openslide, trident.slides.omezarr; print('zarr' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_large_level_is_shrunk_in_bands(
    tmp_path: Path, write_omezarr: Any, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_omezarr(tmp_path / "a.zarr", {1: scene})
    with open_slide(path) as slide:
        at_once = slide.thumbnail((100, 100))
        monkeypatch.setattr("trident.slides.pyramid_reader.THUMBNAIL_AT_ONCE_PX", 1000)
        monkeypatch.setattr("trident.slides.thumbnail._BAND_PX", 1 << 16)
        in_bands = slide.thumbnail((100, 100))
    assert in_bands.shape == at_once.shape
    assert np.abs(in_bands.astype(int) - at_once).mean() < 2
