"""The drawn slide opens as a real one would, is always the same, and looks like stained tissue on glass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from trident.demo.slide import draw_demo_slide, render_demo_slide
from trident.errors import SettingsError, StoreError

WIDTH_PX, HEIGHT_PX = 1030, 775


@pytest.fixture(scope="module")
def small_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "new folder" / "small.svs"
    draw_demo_slide(path, seed=3, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    return path


@pytest.fixture(scope="module")
def small_image() -> np.ndarray:
    return render_demo_slide(seed=3, width_px=WIDTH_PX, height_px=HEIGHT_PX)


def test_opens_as_aperio_slide(small_slide: Path) -> None:
    with openslide.OpenSlide(small_slide) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == 0.25
        assert float(slide.properties["openslide.objective-power"]) == 40
        # 1030 / 16 is 64 wide, 775 / 16 is 48 high: too small for a third level.
        assert slide.level_dimensions == ((1030, 775), (257, 193))
        assert slide.associated_images["thumbnail"].size == (1024, 770)
    assert [file.name for file in small_slide.parent.iterdir()] == ["small.svs"], "no temporary file stays"


def test_third_level_and_resolution(tmp_path: Path) -> None:
    draw_demo_slide(tmp_path / "wide.svs", width_px=1024, height_px=1024, mpp=0.5)
    with openslide.OpenSlide(tmp_path / "wide.svs") as slide:
        assert slide.level_downsamples == (1.0, 4.0, 16.0)
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert float(slide.properties["openslide.objective-power"]) == 20


def test_pixels_survive_compression(small_slide: Path, small_image: np.ndarray) -> None:
    """Wrong colour channels, a shifted tile or a wrong edge would differ by far more than JPEG does."""
    with openslide.OpenSlide(small_slide) as slide:
        read = np.asarray(slide.read_region((0, 0), 0, (WIDTH_PX, HEIGHT_PX)))[..., :3].astype(int)
        reduced = np.asarray(slide.read_region((0, 0), 1, (257, 193)))[..., :3].astype(int)
    assert np.abs(read - small_image).mean() < 4
    assert np.abs(read.mean(axis=(0, 1)) - small_image.mean(axis=(0, 1))).max() < 0.6
    expected = np.asarray(Image.fromarray(small_image).resize((257, 193), Image.Resampling.BOX)).astype(int)
    assert np.abs(reduced - expected).mean() < 4


def test_cucim_reads_the_same_pixels(small_slide: Path) -> None:
    cucim = pytest.importorskip("cucim", reason="cuCIM is a Linux package")
    image = cucim.CuImage(str(small_slide))
    with openslide.OpenSlide(small_slide) as slide:
        for level, size in enumerate(slide.level_dimensions):
            expected = np.asarray(slide.read_region((0, 0), level, size))[..., :3]
            assert np.array_equal(np.asarray(image.read_region((0, 0), size, level)), expected), f"level {level}"


def test_seed_decides(small_slide: Path, tmp_path: Path) -> None:
    draw_demo_slide(tmp_path / "again.svs", seed=3, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    draw_demo_slide(tmp_path / "other.svs", seed=4, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    assert (tmp_path / "again.svs").read_bytes() == small_slide.read_bytes()
    assert (tmp_path / "other.svs").read_bytes() != small_slide.read_bytes()


def test_shows_glass_tissue_nuclei_and_ink() -> None:
    image = render_demo_slide(seed=0, width_px=2048, height_px=1536, mpp=0.5).astype(int)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    shares = {
        "glass": (image.min(axis=2) > 225).mean(),
        "eosin": ((red > green + 30) & (blue > green + 15) & (red > 170)).mean(),
        "nuclei": ((blue > red + 25) & (red > green) & (blue < 190) & (blue > 70)).mean(),
        "green ink": ((green > red + 50) & (green > blue + 20)).mean(),
        "blue ink": ((blue > green + 60) & (blue > red + 60)).mean(),
        "black ink": (image.max(axis=2) < 80).mean(),
    }
    expected = {
        "glass": (0.45, 0.75),
        "eosin": (0.15, 0.40),
        "nuclei": (0.02, 0.15),
        "green ink": (0.004, 0.03),
        "blue ink": (0.004, 0.03),
        "black ink": (0.002, 0.03),
    }
    outside = {name: share for name, share in shares.items() if not expected[name][0] < share < expected[name][1]}
    assert not outside


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_px": 255}, "width_px is 255"),
        ({"height_px": 0}, "height_px is 0"),
        ({"width_px": 100_000}, "width_px is 100000"),
        ({"mpp": 0.0}, "mpp is 0.0"),
        ({"mpp": float("nan")}, "mpp is nan"),
    ],
)
def test_refuses_bad_sizes(tmp_path: Path, options: dict[str, float], message: str) -> None:
    sizes = {"width_px": 512, "height_px": 512} | options
    with pytest.raises(SettingsError, match=message):
        draw_demo_slide(tmp_path / "slide.svs", **sizes)
    assert not list(tmp_path.iterdir())


def test_smallest_slide_draws(tmp_path: Path) -> None:
    draw_demo_slide(tmp_path / "tiny.svs", width_px=256, height_px=256, mpp=2)
    with openslide.OpenSlide(tmp_path / "tiny.svs") as slide:
        assert slide.level_dimensions == ((256, 256), (64, 64))


def test_unwritable_target_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"file/slide\.svs: cannot be written"):
        draw_demo_slide(tmp_path / "file" / "slide.svs", width_px=256, height_px=256)
