"""Plain TIFFs: read with the pixels that the file means, or refused; against the arrays that tifffile wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from trident.errors import UnreadableSlideError
from trident.slides.registry import open_slide

Pixels = NDArray[Any]
CONVERT = "run `trident convert --input_dir"
EXPORT = "export it as an 8-bit RGB TIFF first"
SCALES = "`trident convert` scales it"
SHOWN = "write those to be shown as an 8-bit RGB TIFF first"
ORIENTED: dict[str, Any] = {"extratags": [(274, "H", 1, 6, True)]}


@pytest.fixture(scope="module")
def rgb() -> NDArray[np.uint8]:
    """A smooth random picture of 333 x 277 px."""
    noise = np.random.default_rng(2).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (333, 277), interpolation=cv2.INTER_CUBIC))


def _planes(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def _write(path: Path, pixels: Pixels, *, tile: tuple[int, int] | None = (64, 64), **how: Any) -> Path:
    strips = {} if tile else {"rowsperstrip": 33}
    shared: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, pixels, tile=tile, **{**shared, **strips, **how})
    return path


def _read(path: Path, **options: Any) -> NDArray[np.uint8]:
    with open_slide(path, **options) as slide:
        return slide.read_region((0, 0), 0, slide.dimensions)


PALETTE = np.random.default_rng(7).integers(0, 256, (256, 3)).astype(np.uint8)

RIGHT = {
    "rgb": (lambda rgb: rgb, {"photometric": "rgb"}, lambda rgb: rgb),
    "rgb in planes": (_planes, {"photometric": "rgb", "planarconfig": "separate"}, lambda rgb: rgb),
    "rgb, opaque alpha": (
        lambda rgb: np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        lambda rgb: rgb,
    ),
    "grey": (lambda rgb: rgb[..., 0], {"photometric": "minisblack"}, lambda rgb: np.dstack([rgb[..., 0]] * 3)),
    "white is zero": (
        lambda rgb: rgb[..., 0],
        {"photometric": "miniswhite"},
        lambda rgb: 255 - np.dstack([rgb[..., 0]] * 3),
    ),
    "palette": (
        lambda rgb: rgb[..., 0],
        {"photometric": "palette", "colormap": PALETTE.T.astype(np.uint16) * 257},
        lambda rgb: PALETTE[rgb[..., 0]],
    ),
    "ycbcr": (
        lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]],
        {"photometric": "ycbcr"},
        lambda rgb: rgb,
    ),
    "orientation 1": (
        lambda rgb: rgb,
        {"photometric": "rgb", "extratags": [(274, "H", 1, 1, True)]},
        lambda rgb: rgb,
    ),
    "big-endian BigTIFF": (
        lambda rgb: rgb,
        {"photometric": "rgb", "bigtiff": True, "byteorder": ">"},
        lambda rgb: rgb,
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_openslide_reads_rightly_is_read(case: str, rgb: Pixels, tmp_path: Path) -> None:
    stored, how, meant = RIGHT[case]
    found = _read(_write(tmp_path / "a.tif", stored(rgb), **how)).astype(int)
    limit = 3 if case == "ycbcr" else 0  # rounded twice
    assert np.abs(found - meant(rgb)).max() <= limit


WRONG = {
    "3 greys": (lambda rgb: rgb, {"photometric": "minisblack", "planarconfig": "contig"}, "it has 3 channels", SHOWN),
    "3 grey planes": (
        _planes,
        {"photometric": "minisblack", "planarconfig": "separate"},
        "it has 3 channels that are not marked as colours",
        SHOWN,
    ),
    "5 greys": (
        lambda rgb: np.dstack([rgb, rgb[..., :2]]),
        {"photometric": "minisblack", "planarconfig": "contig"},
        "it has 5 channels",
        SHOWN,
    ),
    "rgb and 2 more": (
        lambda rgb: np.dstack([rgb, rgb[..., :2]]),
        {"photometric": "rgb", "extrasamples": ["unspecified"] * 2},
        "it has 5 channels",
        EXPORT,
    ),
    "16-bit grey": (
        lambda rgb: rgb[..., 0].astype(np.uint16) * 257,
        {"photometric": "miniswhite"},
        "its grey has 16 bits",
        CONVERT,
    ),
    "signed": (
        lambda rgb: rgb[..., 0].astype(np.int16),
        {"photometric": "minisblack"},
        "its values have a sign",
        EXPORT,
    ),
    "float": (lambda rgb: rgb.astype(np.float32), {"photometric": "rgb"}, "floating point", EXPORT),
    "lab": (lambda rgb: rgb, {"photometric": "cielab"}, "PhotometricInterpretation 8", EXPORT),
    "grey, alpha": (
        lambda rgb: np.dstack([rgb[..., 0], np.full(rgb.shape[:2], 255, np.uint8)]),
        {"photometric": "minisblack", "extrasamples": ["unassalpha"]},
        "its grey has alpha",
        CONVERT,
    ),
    "orientation 6": (lambda rgb: rgb, {"photometric": "rgb", **ORIENTED}, r"its Orientation tag \(6\)", CONVERT),
}


@pytest.mark.parametrize("reader_type", [None, "openslide"])
@pytest.mark.parametrize("case", WRONG)
def test_what_openslide_reads_wrongly_is_refused(
    case: str, reader_type: str | None, rgb: Pixels, tmp_path: Path
) -> None:
    stored, how, says, way = WRONG[case]
    path = _write(tmp_path / "a.tif", stored(rgb), **how)
    with pytest.raises(UnreadableSlideError, match=says) as caught:
        open_slide(path, reader_type=reader_type, mpp=0.5)
    assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("case", "way"), [(case, way) for case, (*_, way) in WRONG.items()])
def test_what_the_refusal_says_is_so(case: str, way: str, rgb: Pixels, tmp_path: Path) -> None:
    """Where the conversion is named it gives the pixels that were meant, and elsewhere it refuses as well."""
    pytest.importorskip("pyvips", exc_type=(ImportError, OSError))
    from trident.convert.source import opened
    from trident.slides.discovery import SlideSource

    stored, how, *_ = WRONG[case]
    path = _write(tmp_path / "a.tif", stored(rgb), **how)
    source = SlideSource(path, path.name, "a", 0.5, path.stat().st_size)
    if way != CONVERT:
        with pytest.raises(UnreadableSlideError), opened(source, 1):
            pass
        return
    grey = np.dstack([rgb[..., 0]] * 3)
    meant = {"grey, alpha": grey, "16-bit grey": 255 - grey}.get(case, rgb)
    with opened(source, 1) as found:
        assert np.abs(found.image.numpy().astype(float) - meant).max() <= 1


SIXTEEN_BITS = {
    "rgb": (lambda rgb: rgb.astype(np.uint16) * 257, {"photometric": "rgb"}, lambda rgb: rgb, SCALES),
    "12 in 16": (lambda rgb: rgb.astype(np.uint16) * 16, {"photometric": "rgb"}, lambda rgb: rgb // 16, SCALES),
    "planes": (
        lambda rgb: _planes(rgb.astype(np.uint16) * 257),
        {"photometric": "rgb", "planarconfig": "separate"},
        lambda rgb: rgb,
        EXPORT,
    ),
}


@pytest.mark.parametrize("case", SIXTEEN_BITS)
def test_the_upper_8_of_16_bits_are_read_with_a_note(case: str, rgb: Pixels, tmp_path: Path) -> None:
    stored, how, upper, way = SIXTEEN_BITS[case]
    with open_slide(_write(tmp_path / "a.tif", stored(rgb), **how), mpp=0.5) as slide:
        assert np.abs(slide.read_region((0, 0), 0, slide.dimensions).astype(int) - upper(rgb)).max() <= 1
        (note,) = slide.notes
    # Without the path: it may be that of a copy in the cache.
    assert note == f"of its 16 bits OpenSlide takes the upper 8; where that is too dark, {way}"


def test_the_conversion_scales_16_bits_by_the_depth_that_is_used(rgb: Pixels, tmp_path: Path) -> None:
    pytest.importorskip("pyvips", exc_type=(ImportError, OSError))
    from trident.convert.source import opened
    from trident.slides.discovery import SlideSource

    path = _write(tmp_path / "a.tif", rgb.astype(np.uint16) * 16, photometric="rgb")
    with opened(SlideSource(path, path.name, "a", 0.5, path.stat().st_size), 1) as found:
        assert np.abs(found.image.numpy().astype(float) - rgb * (16 * 255 / 4095)).max() <= 1


def test_cmyk_is_read_and_noted(rgb: Pixels, tmp_path: Path) -> None:
    no_black = np.zeros(rgb.shape[:2], np.uint8)
    path = _write(tmp_path / "cmyk.tif", np.dstack([255 - rgb, no_black]), photometric="separated", extrasamples=())
    with open_slide(path) as slide:
        assert "without a colour profile" in slide.notes[0]
        assert np.abs(slide.read_region((0, 0), 0, slide.dimensions).astype(int) - rgb).max() <= 1


def test_a_stack_is_noted_and_a_pyramid_is_not(rgb: Pixels, tmp_path: Path) -> None:
    how: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(tmp_path / "stack.tif") as tiff:
        for number in range(4):
            tiff.write(rgb if number == 0 else 255 - rgb, **how)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as tiff:
        for step in (1, 2, 4):
            tiff.write(np.ascontiguousarray(rgb[::step, ::step]), subfiletype=int(step > 1), **how)
    with open_slide(tmp_path / "stack.tif") as slide:
        assert slide.notes == [
            "it has 3 more pages not marked as levels (focal planes, other images?); the first page is read"
        ]
        assert np.array_equal(slide.read_region((0, 0), 0, slide.dimensions), rgb)
    with open_slide(tmp_path / "pyramid.tif") as slide:
        assert (len(slide.level_dimensions), slide.notes) == (3, [])


IMAGES = {
    "rgb": (lambda rgb: rgb, {"photometric": "rgb"}, None),
    "grey": (lambda rgb: np.dstack([rgb[..., 0]] * 3), {"photometric": "rgb"}, None),
    "premultiplied grey": (
        lambda rgb: np.dstack([rgb[..., 0], np.full(rgb.shape[:2], 255, np.uint8)]),
        {"photometric": "minisblack", "extrasamples": ["assocalpha"]},
        None,
    ),
    "16-bit rgb": (lambda rgb: rgb.astype(np.uint16) * 16, {"photometric": "rgb"}, CONVERT),
    "16-bit planes": (
        lambda rgb: _planes(rgb.astype(np.uint16) * 257),
        {"photometric": "rgb", "planarconfig": "separate"},
        CONVERT,
    ),
    "orientation 6": (lambda rgb: rgb, {"photometric": "rgb", **ORIENTED}, CONVERT),
    "signed bytes": (lambda rgb: rgb[..., 0].astype(np.int8), {"photometric": "minisblack"}, EXPORT),
}


@pytest.mark.parametrize("case", IMAGES)
def test_the_image_reader(case: str, rgb: Pixels, tmp_path: Path) -> None:
    stored, how, way = IMAGES[case]
    path = _write(tmp_path / "a.tif", stored(rgb), tile=None, **how)
    if way is None:
        meant = stored(rgb)
        meant = meant if meant.shape[2] == 3 else np.dstack([meant[..., 0]] * 3)
        assert np.array_equal(_read(path, reader_type="image"), meant)
        return
    with pytest.raises(UnreadableSlideError) as caught:
        open_slide(path, reader_type="image", mpp=0.5)
    assert way in str(caught.value)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("rgb", "use --reader_type image if it is small, else run `trident convert"),
        ("12 in 16", "or damaged; run `trident convert"),
        ("5 greys", SHOWN),
        ("float", EXPORT),
    ],
)
def test_strips_are_answered_with_what_helps(case: str, says: str, rgb: Pixels, tmp_path: Path) -> None:
    stored, how, *_ = {**SIXTEEN_BITS, **RIGHT, **WRONG}[case]
    path = _write(tmp_path / "a.tif", stored(rgb), tile=None, **how)
    with pytest.raises(UnreadableSlideError) as caught:
        open_slide(path)
    assert says in str(caught.value)


OME = {"axes": "YXS", "PhysicalSizeX": 310, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 310, "PhysicalSizeYUnit": "nm"}


@pytest.mark.parametrize(
    ("metadata", "per_cm", "given", "mpp", "source", "notes"),
    [
        (OME, None, None, 0.31, "ome.PhysicalSizeX", []),
        (OME, 10_000 / 0.31, None, 0.31, "ome.PhysicalSizeX", []),
        (OME, 28.35, None, 0.31, "ome.PhysicalSizeX", []),  # 72 dpi: a print
        (
            OME,
            10_000 / 0.9,
            None,
            0.31,
            "ome.PhysicalSizeX",
            [
                "0.31 µm/px (ome.PhysicalSizeX) is used; the file's own metadata also says 0.9 (openslide.mpp-x, "
                "tiff.XResolution)"
            ],
        ),
        (OME, None, 0.5, 0.5, "given", ["the given 0.5 µm/px is used; the file's own metadata says 0.31 (ome."]),
        ({"axes": "YXS"}, 20_000, None, 0.5, "openslide.mpp-x", []),
        (
            {**OME, "PhysicalSizeY": 620},
            None,
            None,
            0.31,
            "ome.PhysicalSizeX",
            ["its pixels are not square: 0.31 µm across (ome.PhysicalSizeX), 0.62 µm down"],
        ),
    ],
)
def test_the_resolution_of_ome_xml(
    metadata: dict[str, Any],
    per_cm: float | None,
    given: float | None,
    mpp: float,
    source: str,
    notes: list[str],
    rgb: Pixels,
    tmp_path: Path,
) -> None:
    """One place says it to the pipeline, `trident info` and the conversion."""
    resolution: dict[str, Any] = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"} if per_cm else {}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(64, 64), metadata=metadata, **resolution)
    with open_slide(path, mpp=given) as slide:
        assert slide.mpp == pytest.approx(mpp)
        assert slide.mpp_source == source
        assert len(slide.notes) == len(notes)
        assert all(note.startswith(start) for note, start in zip(slide.notes, notes, strict=True))
    pytest.importorskip("pyvips", exc_type=(ImportError, OSError))
    from trident.convert.source import opened
    from trident.slides.discovery import SlideSource

    with opened(SlideSource(path, path.name, "a", given, path.stat().st_size), 1) as found:
        assert (found.mpp, found.mpp_source) == (pytest.approx(mpp), source)
        assert all(note.startswith(start) for note, start in zip(found.notes, notes, strict=True))


def test_ome_planes(rgb: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "channels.ome.tif"
    tifffile.imwrite(path, _planes(rgb), photometric="minisblack", tile=(64, 64), metadata={"axes": "CYX"})
    with pytest.raises(UnreadableSlideError, match=r"it has several planes \(C: 3\) for its channels"):
        open_slide(path)
    path = tmp_path / "depths.ome.tif"
    stack = np.stack([rgb, 255 - rgb])
    tifffile.imwrite(path, stack, photometric="rgb", tile=(64, 64), metadata={"axes": "ZYXS"})
    with open_slide(path) as slide:
        assert slide.notes == ["it has several planes (Z: 2), of which the first is read"]
        assert np.array_equal(slide.read_region((0, 0), 0, slide.dimensions), rgb)
