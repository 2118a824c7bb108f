"""Whole conversions: every kind of source, seen afterwards by OpenSlide, cuCIM and tifffile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from trident.convert.plan import find_files
from trident.convert.pyramid import read_recipe
from trident.convert.stage import ConvertStage
from trident.errors import MissingMppError, RecipeMismatchError
from trident.stages.base import Condition, run_stage

Pixels = NDArray[np.uint8]
Save = Callable[[Path, Pixels], None]

MIN_PSNR_DB = 37.0
"""JPEG at the default quality (85, colours at half resolution) of the drawn slide has 38.0 to 38.5 dB."""

MIN_SMALL_PSNR_DB = 32.0
"""The same at half or a third of its size, where colours change within a few pixels: 34 dB."""


READERS = {
    "a.svs": "cucim",
    "a.png": "libvips",
    "a.jpg": "libvips",
    "a.tif": "libvips",
    "a.tiff": "openslide",
    "a.ome.tif": "openslide",
}
"""Sources, and what reads each."""


@pytest.mark.parametrize(("name", "reader"), READERS.items())
def test_openslide_and_tifffile_see_the_source(
    name: str, reader: str, tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any, level0: Any, psnr: Any
) -> None:
    save(inputs / name, tissue)
    chosen = options({name: 0.46})
    convert(chosen, name)
    output = chosen.job_dir / "a.tiff"
    import openslide

    with openslide.OpenSlide(output) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.46, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.46, rel=1e-6)
        assert slide.level_dimensions == ((700, 520), (350, 260), (175, 130))
        half = np.asarray(slide.read_region((0, 0), 1, (350, 260)))[..., :3]
    assert psnr(level0(output), tissue) > MIN_PSNR_DB
    expected = cv2.resize(tissue, (350, 260), interpolation=cv2.INTER_AREA)
    assert psnr(half, expected) > MIN_SMALL_PSNR_DB
    recipe = read_recipe(output)
    assert recipe is not None
    if reader != "cucim":  # not there on Python 3.10
        assert recipe.facts["reader"] == reader
    assert [path for path in chosen.job_dir.iterdir() if "tmp" in path.name or path.suffix == ".lock"] == []


def test_cucim_sees_the_same_pixels_as_openslide(
    tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any, level0: Any
) -> None:
    cucim = pytest.importorskip("cucim", reason="cuCIM is not installed")
    save(inputs / "a.svs", tissue)
    chosen = options()
    convert(chosen, "a.svs")
    image = cucim.CuImage(str(chosen.job_dir / "a.tiff"))
    assert image.resolutions["level_dimensions"] == ((700, 520), (350, 260), (175, 130))
    assert image.spacing()[:2] == pytest.approx([0.25, 0.25], rel=1e-5)
    np.testing.assert_array_equal(np.asarray(image.read_region((0, 0), (700, 520))), level0(chosen.job_dir / "a.tiff"))


def test_quality_90_keeps_colours_sharp(
    tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any, level0: Any, psnr: Any
) -> None:
    save(inputs / "a.png", tissue)
    found = {}
    for quality in (50, 85, 95):
        chosen = options({"a.png": 0.5}, quality=quality, job_dir=inputs.parent / str(quality))
        convert(chosen, "a.png")
        found[quality] = psnr(level0(chosen.job_dir / "a.tiff"), tissue)
    assert found[50] < found[85] < found[95]
    assert found[95] > 40


def test_downscaling_multiplies_the_mpp(
    tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any, level0: Any, psnr: Any
) -> None:
    save(inputs / "a.svs", tissue)
    chosen = options(downscale_by=3)
    convert(chosen, "a.svs")
    expected = tissue[:519, :699].reshape(173, 3, 233, 3, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    assert psnr(level0(chosen.job_dir / "a.tiff"), expected) > MIN_SMALL_PSNR_DB
    import openslide

    with openslide.OpenSlide(chosen.job_dir / "a.tiff") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.75, rel=1e-6)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.svs"])
def test_the_colour_profile_is_kept(name: str, tissue: Pixels, inputs: Path, options: Any, convert: Any) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if name == "a.png":
        Image.fromarray(tissue).save(inputs / name, icc_profile=profile)
    else:
        tags = [(34675, 7, len(profile), profile, True)]
        tile = (128, 128) if name == "a.svs" else None
        description = "Aperio Image Library\r\n700x520|AppMag = 40|MPP = 0.25" if tile else None
        tifffile.imwrite(
            inputs / name, tissue, photometric="rgb", extratags=tags, tile=tile, description=description, metadata=None
        )
    chosen = options({name: 0.25})
    convert(chosen, name)
    with tifffile.TiffFile(chosen.job_dir / "a.tiff") as tiff:
        assert tiff.pages.first.tags[34675].value == profile  # type: ignore[union-attr]


def test_16_bits_and_grey(inputs: Path, options: Any, convert: Any, level0: Any) -> None:
    grey = np.linspace(0, 4095, 300 * 400).reshape(300, 400).astype(np.uint16)
    tifffile.imwrite(inputs / "strips.tif", grey)
    tifffile.imwrite(inputs / "tiles.tif", np.stack([grey] * 3, axis=2), photometric="rgb", tile=(128, 128))
    Image.fromarray((grey >> 4).astype(np.uint8)).save(inputs / "grey.png")
    chosen = options({"strips.tif": 0.5, "tiles.tif": 0.5, "grey.png": 0.5}, quality=95)
    expected = np.rint(grey * (255 / 4095))[..., None]
    for name in ("strips.tif", "tiles.tif", "grey.png"):
        result = convert(chosen, name)
        assert ("of 12 bits, were scaled to 8" in result.message) == (name != "grey.png")
        found = level0(chosen.job_dir / f"{Path(name).stem}.tiff").astype(float)
        assert np.abs(found - expected).max() <= 4


def test_of_several_pages_the_first_is_converted_and_it_is_said(
    tissue: Pixels, inputs: Path, options: Any, convert: Any, level0: Any, psnr: Any
) -> None:
    tifffile.imwrite(inputs / "a.tif", np.stack([tissue, 255 - tissue]), photometric="rgb", metadata=None)
    chosen = options({"a.tif": 0.5})
    assert "it has 2 pages, of which the first was converted" in convert(chosen, "a.tif").message
    assert psnr(level0(chosen.job_dir / "a.tiff"), tissue) > MIN_PSNR_DB


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.v", "webp.tif", "a.ppm"])
def test_what_no_slide_reader_takes_is_left_to_libvips(
    name: str, inputs: Path, options: Any, convert: Any, level0: Any
) -> None:
    import pyvips

    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[100:250, 50:300] = (255, 0, 255)  # two colours: GIF has 256
    image = pyvips.Image.new_from_array(pixels)
    if name == "webp.tif":  # OpenSlide takes it for a slide, and then lacks the codec
        image.tiffsave(str(inputs / name), tile=True, compression="webp", lossless=True)
    elif name == "a.ppm" and not pyvips.type_find("VipsForeignLoad", "ppmload"):
        pytest.skip("this libvips reads no PPM")
    else:
        image.write_to_file(str(inputs / name), **({"lossless": True} if name == "a.webp" else {}))
    chosen = options({name: 0.5}, quality=100)
    result = convert(chosen, name)
    assert "read by libvips" in result.message
    found = level0(chosen.job_dir / f"{Path(name).stem}.tiff")
    assert np.abs(found.astype(int) - pixels).max() <= 4


@pytest.mark.parametrize(("strips", "reader"), [(True, "libvips"), (False, "openslide")])
@pytest.mark.parametrize("ome", [False, True])
def test_pixels_that_are_not_square(
    strips: bool, reader: str, ome: bool, tissue: Pixels, inputs: Path, options: Any, convert: Any
) -> None:
    how: dict[str, Any] = {"photometric": "rgb", **({"rowsperstrip": 40} if strips else {"tile": (128, 128)})}
    name = "a.ome.tif" if ome else "a.tif"
    if ome:
        how["metadata"] = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 1.0}
    else:
        how |= {"metadata": None, "resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(inputs / name, tissue, **how)
    result = convert(options(), name)
    assert f"read by {reader}; its pixels are not square: 0.5 µm across (" in result.message
    assert "1 µm down" in result.message


def test_resolutions(tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any) -> None:
    """From the file; from the CSV, which wins and says so; from neither."""
    save(inputs / "a.svs", tissue)
    tifffile.imwrite(inputs / "cm.tif", tissue, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    dpi_72: dict[str, Any] = {"resolution": (72, 72), "resolutionunit": "INCH"}
    tifffile.imwrite(inputs / "print.tif", tissue, **dpi_72)
    tifffile.imwrite(inputs / "print_tiles.tif", tissue, photometric="rgb", tile=(128, 128), **dpi_72)
    tifffile.imwrite(inputs / "none.tif", tissue)
    (inputs / "given.tif").write_bytes((inputs / "print_tiles.tif").read_bytes())
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.23, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(inputs / "ome.ome.tif", tissue, photometric="rgb", metadata=metadata)
    tifffile.imwrite(inputs / "tiles.ome.tif", tissue, photometric="rgb", metadata=metadata, tile=(128, 128))
    tagged = {"photometric": "rgb", "metadata": metadata, "tile": (128, 128)}
    tifffile.imwrite(inputs / "tagged.ome.tif", tissue, **tagged, resolution=(10, 10), resolutionunit="CENTIMETER")
    tifffile.imwrite(inputs / "near.ome.tif", tissue, **tagged, resolution=(5000, 5000), resolutionunit="CENTIMETER")
    save(inputs / "plain.png", tissue)
    chosen = options({"a.svs": 0.5, "given.tif": 0.5})
    result = convert(chosen, "a.svs")
    assert "the given 0.5 µm/px is used; the file's own metadata says 0.25 (openslide.mpp-x" in result.message
    for name, mpp in (("cm", 0.5), ("ome", 0.23), ("tiles", 0.23), ("tagged", 0.23), ("near", 0.23), ("given", 0.5)):
        convert(chosen, next(path.name for path in inputs.glob(f"{name}.*")))
        recipe = read_recipe(chosen.job_dir / f"{name}.tiff")
        assert recipe is not None
        assert recipe.facts["mpp"] == pytest.approx(mpp)
        others = "2 (openslide.mpp-x, tiff.XResolution)"
        expected = [f"0.23 µm/px (ome.PhysicalSizeX) is used; the file's own metadata also says {others}"]
        assert recipe.facts["notes"] == (expected if name == "near" else [])
    for name, says in (
        ("print.tif", "its TIFF tags say 352.778 µm/px, the resolution of a print"),
        ("print_tiles.tif", "its TIFF tags say 352.778 µm/px, the resolution of a print"),
        ("none.tif", "its µm/px is neither in the file nor in --mpp_csv; add a row `none.tif,<µm/px>`"),
        ("plain.png", "its µm/px is neither in the file nor in --mpp_csv; add a row `plain.png,<µm/px>`"),
    ):
        with pytest.raises(MissingMppError) as caught:
            convert(chosen, name)
        assert says in str(caught.value)
        assert not (chosen.job_dir / f"{Path(name).stem}.tiff").exists()


def test_what_is_done_is_skipped_and_what_changed_is_told(
    tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any
) -> None:
    save(inputs / "a.svs", tissue)
    chosen = options()
    convert(chosen, "a.svs")
    output = chosen.job_dir / "a.tiff"
    before = output.stat().st_mtime_ns
    assert convert(chosen, "a.svs").skipped
    for change, says in (
        ({"quality": 70}, "quality: 85 -> 70"),
        ({"downscale_by": 2}, "downscale_by: 1 -> 2"),
        ({"bigtiff": True}, "bigtiff: where needed -> always"),
        ({"mpp": {"a.svs": 0.3}}, "mpp: from the slide -> 0.3"),
    ):
        with pytest.raises(RecipeMismatchError) as caught:
            convert(options(**change), "a.svs")  # type: ignore[arg-type]
        assert says in str(caught.value)
        assert "use --overwrite" in str(caught.value)
    assert output.stat().st_mtime_ns == before
    assert not convert(options(quality=70, overwrite=True), "a.svs", overwrite_run="1").skipped
    assert convert(options(quality=70, overwrite=True), "a.svs", overwrite_run="1").skipped
    save(inputs / "a.svs", tissue[:500])  # another file under the same name
    (source,) = find_files(options(quality=70))
    stage = ConvertStage(options(quality=70), source)
    assert stage.status().condition is Condition.STALE
    run_stage(stage)
    output.write_bytes(output.read_bytes()[:5000])  # somebody's copy stopped half-way
    assert stage.status().condition is Condition.STALE
    run_stage(stage)
    assert stage.status().done


def test_another_programs_tiff_is_left_alone(
    tissue: Pixels, save: Save, inputs: Path, options: Any, convert: Any
) -> None:
    save(inputs / "a.svs", tissue)
    chosen = options()
    chosen.job_dir.mkdir()
    tifffile.imwrite(chosen.job_dir / "a.tiff", tissue)
    assert convert(chosen, "a.svs").skipped


@pytest.mark.parametrize(
    ("name", "mpp", "corner"),
    [
        ("CMU-1-Small-Region.svs", 0.499, (900, 1500)),
        ("TCGA-CR-7395-no-mpp.svs", 2.0, (1800, 1500)),  # JPEG 2000, with a colour profile
        ("boxes_0.dcm", 0.5, (0, 0)),
    ],
)
def test_real_slides(
    name: str,
    mpp: float,
    corner: tuple[int, int],
    shared_slides: Path,
    inputs: Path,
    options: Any,
    convert: Any,
    psnr: Any,
) -> None:
    import openslide

    shutil.copyfile(shared_slides / name, inputs / name)
    if name.endswith(".dcm"):  # a series of two files
        shutil.copyfile(shared_slides / "boxes_1.dcm", inputs / "boxes_1.dcm")
    chosen = options(None if name.startswith("CMU") else {name: mpp}, quality=90)
    convert(chosen, name)
    output = chosen.job_dir / f"{Path(name).stem}.tiff"
    with openslide.OpenSlide(inputs / name) as before, openslide.OpenSlide(output) as after:
        assert after.dimensions == before.dimensions
        regions = [np.asarray(slide.read_region(corner, 0, (250, 250)).convert("RGB")) for slide in (before, after)]
        profiles = [slide.color_profile and slide.color_profile.tobytes() for slide in (before, after)]
    assert psnr(*regions) > 38
    assert profiles[0] == profiles[1]
    recipe = read_recipe(output)
    assert recipe is not None
    assert recipe.facts["mpp"] == pytest.approx(mpp)


def test_a_dicom_series_in_a_folder(
    shared_slides: Path, inputs: Path, options: Any, convert: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (inputs / "series").mkdir()
    for part in ("boxes_0.dcm", "boxes_1.dcm"):
        shutil.copyfile(shared_slides / part, inputs / "series" / part)
    chosen = options({"series": 0.5})
    assert [source.rel_path for source in find_files(chosen)] == ["series"]
    convert(chosen, "series")
    assert read_recipe(chosen.job_dir / "series.tiff") is not None
    assert "colour profile" not in caplog.text  # it is looked for in a file of the series, not in the folder


def test_ome_zarr(tissue: Pixels, inputs: Path, options: Any, convert: Any, level0: Any, psnr: Any) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install -e '.[omezarr]'")
    group = zarr.open_group(str(inputs / "a.ome.zarr"), mode="w", zarr_format=2)
    array = group.create_array("0", shape=(3, 520, 700), chunks=(3, 300, 256), dtype="u1")
    array[:] = tissue.transpose(2, 0, 1)
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = {"type": "scale", "scale": [1, 0.23, 0.23]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    chosen = options()
    assert "0.23 µm/px" in convert(chosen, "a.ome.zarr").message
    assert psnr(level0(chosen.job_dir / "a.tiff"), tissue) > MIN_PSNR_DB


def test_czi(tissue: Pixels, inputs: Path, options: Any, convert: Any, level0: Any, psnr: Any) -> None:
    czi = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw is not installed: pip install -e '.[czi]'")
    with czi.create_czi(str(inputs / "a.czi")) as file:
        file.write(np.ascontiguousarray(tissue[..., ::-1]))
        file.write_metadata(scale_x=0.23e-6, scale_y=0.23e-6)
    chosen = options()
    assert "0.23 µm/px" in convert(chosen, "a.czi").message
    assert psnr(level0(chosen.job_dir / "a.tiff"), tissue) > MIN_PSNR_DB
