"""Options of a run, each once from the command line to the outputs: patches, readers, and which slides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from trident.exit_codes import OK, STOPPED, USAGE

Run = Callable[..., Any]


# Options that shape the patches


def test_dumped_patches_are_the_patches(run: Run, wsis: Path, job: Any) -> None:
    from PIL import Image

    assert run("seg").code == OK
    arguments = ("--dump_patches", "--dump_patches_max", 3, "--dump_patches_format", "jpg")
    assert run("coords", *arguments, "--dump_patches_jpeg_quality", 80).code == OK
    with h5py.File(job.coords("a")) as file:
        first = file["coords"][:3]
    names = sorted(path.name for path in (job.grid / "patch_images/a").iterdir())
    assert names == [f"{index:06d}_x{x}_y{y}.jpg" for index, (x, y) in enumerate(first)]
    with Image.open(job.grid / "patch_images/a" / names[0]) as image:
        assert image.size == (128, 128)


def test_a_higher_share_of_tissue_keeps_fewer_patches(run: Run, wsis: Path, job: Any) -> None:
    counts = []
    assert run("seg").code == OK
    for share in (0.0, 0.5, 1.0):
        assert run("coords", "--min_tissue_proportion", share, "--coords_dir", f"share{share}").code == OK
        with h5py.File(job.path / f"share{share}/patches/a_patches.h5") as file:
            counts.append(len(file["coords"]))
    assert counts[0] > counts[1] > counts[2] >= 0


def test_holes_are_cut_out_on_request(run: Run, tmp_path: Path, job: Any) -> None:
    from trident.demo.svs import write_svs

    rows, columns = np.mgrid[:1536, :2048]
    radius = np.hypot(rows - 768, columns - 1024)
    pixels = np.full((1536, 2048, 3), 245, np.uint8)
    pixels[(radius < 650) & (radius > 350)] = (190, 90, 150)
    (tmp_path / "wsis").mkdir()
    write_svs(tmp_path / "wsis/ring.svs", pixels, mpp=2.0, magnification=5)  # holes that Otsu leaves are large
    rings = {}
    for option in ((), ("--remove_holes", "--overwrite")):
        assert run("seg", *option).code == OK
        (feature,) = json.loads(job.tissue("ring").read_text())["features"]
        rings[option] = len(feature["geometry"]["coordinates"])
    assert list(rings.values()) == [1, 2]


def test_coordinates_in_clams_layout_are_used(run: Run, wsis: Path, job: Any) -> None:
    patches = job.path / "clam/patches"
    patches.mkdir(parents=True)
    coords = np.array([[0, 0], [256, 128], [512, 512]])
    for slide in "ab":
        with h5py.File(patches / f"{slide}.h5", "w") as file:
            file["coords"] = coords
            file["coords"].attrs.update(patch_size=128, patch_level=0)
    done = run("feat", "--coords_dir", "clam")
    assert done.code == OK, done.err
    with h5py.File(job.path / "clam/features_stain-stats/a.h5") as file:
        np.testing.assert_array_equal(file["coords"][()], coords)
        assert file["coords"].attrs["patch_size_level0"] == 128
        assert len(file["features"]) == 3
    assert not job.path.joinpath("contours_geojson").exists()
    assert "nothing to do" in run("feat", "--coords_dir", "clam").err


# Which slides, and which reader


def test_nested_folders_and_extensions(run: Run, wsis: Path, job: Any, drawn_slides: Callable[..., Path]) -> None:
    drawn_slides(wsis, "deep/er/c.svs", "d.tif")
    assert run("seg", "--wsi_ext", "svs", "--search_nested").code == OK
    found = {path.stem for path in job.tissue("a").parent.iterdir()}
    assert found == {"a", "b", "c"}
    assert job.state("c")["slide"]["rel_path"] == "deep/er/c.svs"
    assert run("seg", "--wsi_ext", ".TIF").code == OK
    assert job.tissue("d").is_file()


@pytest.mark.parametrize("reader", ["openslide", "cucim", "image"])
def test_the_reader_that_is_asked_for_is_used(
    run: Run, wsis: Path, tmp_path: Path, job: Any, draw_image: Callable[..., None], reader: str
) -> None:
    if reader == "cucim":
        pytest.importorskip("cucim")
    slide, options = "a", ["--wsi_ext", ".svs"]
    if reader == "image":
        draw_image(wsis / "plain.png", (200, 90, 140))
        (tmp_path / "list.csv").write_text("wsi,mpp\nplain.png,0.25\n")
        slide, options = "plain", ["--custom_list_of_wsis", str(tmp_path / "list.csv")]
    assert run("seg", "--reader_type", reader, *options).code == OK
    assert run("coords", "--reader_type", reader, *options).code == OK
    assert job.state(slide)["slide"]["reader_type"] == reader


def test_the_readers_give_the_same_features(run: Run, wsis: Path, job: Any, tmp_path: Path) -> None:
    pytest.importorskip("cucim")
    features = []
    for reader in ("openslide", "cucim"):
        assert run("all", "--reader_type", reader).code == OK
        with h5py.File(job.features("a")) as file:
            features.append(file["features"][()])
        job.path.rename(tmp_path / reader)
    np.testing.assert_array_equal(features[0], features[1])


def test_a_reader_of_another_format_is_one_line(run: Run, wsis: Path, job: Any) -> None:
    done = run("seg", "--reader_type", "sdpc")
    assert done.code in (STOPPED, USAGE)
    assert "sdpc" in done.err.lower()
    assert "Traceback" not in done.err
