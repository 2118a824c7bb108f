"""trident/wsi.py: one slide through every method, against computations of the test's own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import pytest
import torch
from PIL import Image
from shapely.geometry import Polygon, box, shape
from torch import Tensor, nn

import trident
from trident.demo import draw_demo_slide
from trident.encoders.patch.factory import encoder_factory
from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.factory import encoder_factory as slide_encoder_factory
from trident.errors import (
    LockHeldError,
    StoreError,
)
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.segmentation.base import TissueMask
from trident.segmentation.otsu import OtsuSegmenter
from trident.segmentation_models import segmentation_model_factory
from trident.segmentation_models.load import segmentation_model_factory as factory_of_load
from trident.slides.base import Slide
from trident.store import h5
from trident.store.geojson import write_tissue
from trident.store.locks import OutputLock
from trident.wsi import WSI, CuCIMWSI, ImageWSI, OpenSlideWSI, load_wsi

WIDTH_PX, HEIGHT_PX, MPP = 1024, 768, 0.5


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "drawn.svs"
    draw_demo_slide(path, seed=1, width_px=WIDTH_PX, height_px=HEIGHT_PX, mpp=MPP)
    return path


@pytest.fixture
def wsi(slide_path: Path) -> WSI:
    return load_wsi(slide_path)


@pytest.fixture
def tissue_file(tmp_path: Path) -> Path:
    """Two squares: patches of 128 px touch or miss them in a way that is worked out by hand."""
    path = tmp_path / "given.geojson"
    write_tissue(path, [box(130, 130, 300, 250), box(600, 400, 1000, 700)], None)
    return path


def _mean_colour() -> CustomInferenceEncoder:
    """Features that a test can work out: mean red, green and blue of the patch, 0 to 1."""

    class MeanColour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, batch: Tensor) -> Tensor:
            return batch.mean(dim=(2, 3)) * self.scale

    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)

    return CustomInferenceEncoder("mean-colour", MeanColour(), transform, torch.float32)


def test_names_of_the_package() -> None:
    assert (trident.load_wsi, trident.WSI, trident.OpenSlideWSI) == (load_wsi, WSI, OpenSlideWSI)
    assert (trident.CuCIMWSI, trident.ImageWSI) == (CuCIMWSI, ImageWSI)


def test_import_is_light() -> None:
    heavy = ["torch", "torchvision", "timm", "cucim", "cv2", "shapely", "h5py", "skimage", "pandas"]
    code = f"import sys, trident.wsi, trident.processor; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_segment_tissue(wsi: WSI, tmp_path: Path) -> None:
    from trident.segmentation.contours import mask_to_polygons

    expected = mask_to_polygons(OtsuSegmenter().segment(wsi.slide), cut_holes=False, slide_size=wsi.dimensions)
    assert len(expected) > 1
    assert wsi.segment_tissue(segmentation_model_factory("otsu")) == expected == wsi.tissue
    assert not wsi.tissue_seg_path

    path = wsi.segment_tissue(segmentation_model_factory("otsu"), target_mag=1.25, job_dir=tmp_path)
    assert path == wsi.tissue_seg_path == str(tmp_path / "contours_geojson" / "drawn.geojson")
    features = json.loads(Path(path).read_text())["features"]
    assert [shape(feature["geometry"]) for feature in features] == expected
    assert wsi.tissue == expected
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {"thumbnails/drawn.jpg", "contours/drawn.jpg", "contours_geojson/drawn.geojson"}


@pytest.mark.parametrize(("holes_are_tissue", "holes"), [(True, 0), (False, 1)])
def test_holes(wsi: WSI, tmp_path: Path, holes_are_tissue: bool, holes: int) -> None:
    class Ring(OtsuSegmenter):
        def segment(self, slide: Slide, progress: Any = None) -> TissueMask:
            mask = np.zeros((96, 128), np.bool_)
            mask[20:80, 20:100] = True
            mask[40:60, 40:60] = False
            return TissueMask(mask, WIDTH_PX / 128, HEIGHT_PX / 96)

    wsi.segment_tissue(Ring(), holes_are_tissue=holes_are_tissue)
    assert [len(outline.interiors) for outline in wsi.tissue] == [holes]
    wsi.segment_tissue(Ring(), holes_are_tissue=holes_are_tissue, job_dir=tmp_path)
    assert [len(outline.interiors) for outline in wsi.tissue] == [holes]


def test_extract_tissue_coords(slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    wsi = load_wsi(slide_path, tissue_seg_path=tissue_file)
    path = wsi.extract_tissue_coords(10, 64, tmp_path / "grid", overlap=16)
    assert path == str(tmp_path / "grid" / "patches" / "drawn_patches.h5")
    # 20x slide, 10x patches: 128 level-0 px each, 96 apart; the outlines are boxes, which simplification leaves alone.
    tissue = [box(130, 130, 300, 250), box(600, 400, 1000, 700)]
    expected = [
        (x, y)
        for y in range(0, HEIGHT_PX, 96)
        for x in range(0, WIDTH_PX, 96)
        if any(part.intersects(box(x, y, x + 128, y + 128)) for part in tissue)
    ]
    with h5py.File(path) as file:
        coords = file["coords"]
        assert coords.dtype == np.int64
        assert [tuple(row) for row in coords[()].tolist()] == expected
        assert dict(coords.attrs) == {
            "patch_size": 64,
            "patch_size_level0": 128,
            "level0_magnification": 20,
            "target_magnification": 10,
            "overlap": 16,
            "name": "drawn",
            "savetodir": str(tmp_path / "grid"),
            "level0_width": WIDTH_PX,
            "level0_height": HEIGHT_PX,
        }


def test_methods_compute_anew(slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    wsi = load_wsi(slide_path, tissue_seg_path=tissue_file)
    wide = h5.read_coords(Path(wsi.extract_tissue_coords(20, 128, tmp_path)))
    path = Path(wsi.extract_tissue_coords(20, 128, tmp_path, min_tissue_proportion=0.5))
    narrow = h5.read_coords(path)
    tissue = [box(130, 130, 300, 250), box(600, 400, 1000, 700)]
    shares = [
        sum(part.intersection(box(x, y, x + 128, y + 128)).area for part in tissue) / 128**2 for x, y in wide.coords
    ]
    assert narrow.coords.tolist() == wide.coords[np.array(shares) >= 0.5].tolist()
    assert 0 < len(narrow.coords) < len(wide.coords)
    with OutputLock(path), pytest.raises(LockHeldError, match="is writing it"):
        wsi.extract_tissue_coords(20, 128, tmp_path)


def _coords_file(folder: Path, slide_path: Path, tissue_file: Path, patch_size: int = 64) -> Path:
    return Path(load_wsi(slide_path, tissue_seg_path=tissue_file).extract_tissue_coords(10, patch_size, folder))


def _patch(slide: openslide.OpenSlide, x: int, y: int) -> Image.Image:
    """A patch of 64 px at 10x of the 20x slide, as the output contract words it."""
    return slide.read_region((x, y), 0, (128, 128)).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)


def test_visualize_coords(wsi: WSI, slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    coords = _coords_file(tmp_path, slide_path, tissue_file)
    path = wsi.visualize_coords(coords, tmp_path / "pictures")
    assert path == str(tmp_path / "pictures" / "drawn.jpg")
    picture = np.asarray(Image.open(path)).astype(int)
    plain = np.asarray(wsi.get_thumbnail((1000, 1000))).astype(int)
    assert picture.shape == plain.shape == (750, 1000, 3)
    scale = 1000 / WIDTH_PX
    changed = np.abs(picture - plain).max(axis=2) > 25
    (inside_x, inside_y), (outside_x, outside_y) = (int(700 * scale), int(500 * scale)), (int(450 * scale), 50)
    assert changed[inside_y - 5 : inside_y + 5, inside_x - 5 : inside_x + 5].mean() > 0.5
    assert changed[outside_y - 5 : outside_y + 5, outside_x - 5 : outside_x + 5].mean() < 0.1


def test_dump_patches(wsi: WSI, slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    coords = _coords_file(tmp_path, slide_path, tissue_file)
    folder = wsi.dump_patches(coords, tmp_path / "images", max_patches=3)
    assert folder == str(tmp_path / "images" / "drawn")
    first = h5.read_coords(coords).coords[:3].tolist()
    assert sorted(file.name for file in Path(folder).iterdir()) == [
        f"{index:06d}_x{x}_y{y}.png" for index, (x, y) in enumerate(first)
    ]
    slide = openslide.OpenSlide(slide_path)
    for index, (x, y) in enumerate(first):
        with Image.open(Path(folder) / f"{index:06d}_x{x}_y{y}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(_patch(slide, x, y)))


def test_patch_features_of_an_own_model(wsi: WSI, slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    coords = _coords_file(tmp_path, slide_path, tissue_file)
    path = wsi.extract_patch_features(_mean_colour(), coords, tmp_path / "feats", device="cpu", batch_limit=7)
    assert path == str(tmp_path / "feats" / "drawn.h5")
    assert [file.name for file in (tmp_path / "feats").iterdir()] == ["drawn.h5"]
    found, given = h5.read_features(Path(path)), h5.read_coords(coords)
    slide = openslide.OpenSlide(slide_path)
    expected = [np.asarray(_patch(slide, x, y), np.float64).mean((0, 1)) / 255 for x, y in given.coords.tolist()]
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    np.testing.assert_array_equal(found.coords, given.coords)
    assert found.coords_attributes == given.attributes
    assert found.attributes["encoder"] == "mean-colour"


def test_features_as_a_tensor(wsi: WSI, tissue_file: Path, tmp_path: Path) -> None:
    wsi.tissue_seg_path = str(tissue_file)
    coords = wsi.extract_tissue_coords(20, 128, tmp_path)
    for factor in (1.0, 2.0):  # the second call replaces what the first has made
        encoder = _mean_colour()
        encoder.model.scale.data *= factor  # type: ignore[union-attr]
        path = wsi.extract_patch_features(encoder, coords, tmp_path / "feats", device="cpu", saveas="pt")
        assert path == str(tmp_path / "feats" / "drawn.pt")
        tensor = torch.load(path, weights_only=True)
        np.testing.assert_array_equal(tensor.numpy(), h5.read_features(tmp_path / "feats" / "drawn.h5").features)
        assert tensor.max() == pytest.approx(factor, abs=0.1)


def test_slide_features(wsi: WSI, slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    coords = _coords_file(tmp_path, slide_path, tissue_file)
    patches = wsi.extract_patch_features(encoder_factory("stain-stats"), coords, tmp_path / "feats", device="cpu")
    encoder = slide_encoder_factory("mean-stain-stats")
    path = wsi.extract_slide_features(patches, encoder, tmp_path / "slide", device="cpu")
    assert path == str(tmp_path / "slide" / "drawn.h5")
    rows = h5.read_features(Path(patches))
    assert len(rows.features) > 5
    found = h5.read_slide_features(Path(path))
    np.testing.assert_allclose(found.features, rows.features.astype(np.float64).mean(axis=0), rtol=1e-5, atol=1e-6)
    assert found.attributes["encoder"] == "mean-stain-stats"
    # Features of an encoder that the mean of another one cannot take, ours and a foreign file without a recipe.
    other = wsi.extract_patch_features(_mean_colour(), coords, tmp_path / "other", device="cpu")
    for _ in range(2):
        with pytest.raises(StoreError, match="features of mean-colour, but slide encoder mean-stain-stats needs"):
            wsi.extract_slide_features(other, encoder, tmp_path / "wrong", device="cpu")
        with h5py.File(other, "r+") as file:
            if "trident_recipe" in file.attrs:
                del file.attrs["trident_recipe"]
    assert not (tmp_path / "wrong" / "drawn.h5").exists()


def test_verbose_shows_progress_on_stderr(
    wsi: WSI, slide_path: Path, tissue_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coords = _coords_file(tmp_path, slide_path, tissue_file)
    n_patches = len(h5.read_coords(coords).coords)
    wsi.extract_patch_features(_mean_colour(), coords, tmp_path / "feats", device="cpu")
    assert capsys.readouterr() == ("", "")
    wsi.extract_patch_features(_mean_colour(), coords, tmp_path / "feats", device="cpu", verbose=True)
    shown = capsys.readouterr()
    assert f"{n_patches}/{n_patches}" in shown.err
    assert shown.out == ""


def test_gpu_that_is_not_there(
    wsi: WSI,
    slide_path: Path,
    tissue_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    coords = _coords_file(tmp_path, slide_path, tissue_file)
    with caplog.at_level(logging.WARNING, "trident"):
        path = wsi.extract_patch_features(_mean_colour(), coords, tmp_path / "feats")
    assert "device cuda:0: torch finds no GPU" in caplog.text
    recipe = h5.read_recipe(Path(path))
    assert recipe is not None
    assert recipe.facts["device"] == "cpu"


def test_segmenter_is_moved_and_its_magnification_is_its_own(
    wsi: WSI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    moved: list[str] = []

    class Neural(OtsuSegmenter):
        def to(self, device: str) -> None:
            moved.append(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with caplog.at_level(logging.WARNING, "trident"):
        wsi.segment_tissue(Neural(), device="cuda:1")
        assert (moved, caplog.text) == (["cuda:1"], "")
        wsi.segment_tissue(OtsuSegmenter(), target_mag=5)
    assert "segmenter otsu looks at slides at 1.25x; the 5x" in caplog.text


class _OwnSlideEncoder(SlideEncoder):
    def __init__(self, name: str) -> None:
        super().__init__(name, torch.float32, None)

    def forward(self, batch: Mapping[str, Any], device: torch.device | str = "cpu") -> Tensor:
        features: Tensor = batch["features"]
        return features.amax(dim=1)


def test_own_slide_encoder_takes_any_features(wsi: WSI, slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    coords = _coords_file(tmp_path, slide_path, tissue_file)
    patches = wsi.extract_patch_features(_mean_colour(), coords, tmp_path / "feats", device="cpu")
    path = wsi.extract_slide_features(patches, _OwnSlideEncoder("largest"), tmp_path / "slide", device="cpu")
    expected = h5.read_features(Path(patches)).features.max(axis=0)
    np.testing.assert_array_equal(h5.read_slide_features(Path(path)).features, expected)


def test_segmentation_model_factory() -> None:
    assert isinstance(segmentation_model_factory("otsu", 0.4, freeze=False, device="cpu", batch_size=4), OtsuSegmenter)
    assert factory_of_load is segmentation_model_factory


def test_tissue_of_a_given_file(slide_path: Path, tissue_file: Path) -> None:
    expected: list[Polygon] = [box(130, 130, 300, 250), box(600, 400, 1000, 700)]
    found = load_wsi(slide_path, tissue_seg_path=str(tissue_file)).tissue
    assert len(found) == 2
    assert all(one.equals(other) for one, other in zip(found, expected, strict=True))
