"""Patches by µm/px through the stages and the Python interface, against OpenSlide, PIL and shapely."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import pytest
import torch
from PIL import Image
from shapely.geometry import box
from torch import Tensor, nn

from trident.cli import main
from trident.demo import draw_demo_slide
from trident.demo.slide import render_demo_slide
from trident.demo.svs import write_svs
from trident.encoders.slide.mean import MeanSlideEncoder
from trident.errors import RecipeMismatchError, SettingsError
from trident.exit_codes import OK, USAGE
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.patcher import WSIPatcher
from trident.processor import Processor
from trident.segmentation_models import segmentation_model_factory
from trident.stages.coords import GridOptions
from trident.store import h5
from trident.store.geojson import write_tissue
from trident.wsi import load_wsi

WIDTH_PX, HEIGHT_PX, MPP = 1024, 768, 0.27
TISSUE = [box(130, 130, 300, 250), box(600, 400, 1000, 700)]
PATCH_PX = 64


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose magnification (40x) is not what its µm/px says (37x), with levels 1 and 4."""
    path = tmp_path_factory.mktemp("slides") / "drawn.svs"
    draw_demo_slide(path, seed=3, width_px=WIDTH_PX, height_px=HEIGHT_PX, mpp=MPP)
    return path


@pytest.fixture
def tissue_file(tmp_path: Path) -> Path:
    path = tmp_path / "given.geojson"
    write_tissue(path, TISSUE, None)
    return path


class MeanColour(nn.Module):
    """Mean red, green and blue of the patch, 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, batch: Tensor) -> Tensor:
        return batch.mean(dim=(2, 3)) * self.scale


def _mean_colour() -> CustomInferenceEncoder:
    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)

    return CustomInferenceEncoder("mean-colour", MeanColour(), transform, torch.float32)


def _patch(slide: openslide.OpenSlide, corner: tuple[int, int], level: int, read_px: int) -> np.ndarray:
    square = slide.read_region(corner, level, (read_px, read_px)).convert("RGB")
    return np.asarray(square.resize((PATCH_PX, PATCH_PX), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("target_mpp", "overlap", "side", "step", "level", "read_px"),
    [
        (0.5, 0, 119, 119, 0, 119),  # d = 1.85185: 64 d = 118.52
        (1.1, 16, 261, 196, 1, 65),  # d = 4.07407, by the level of 4: 64 d = 260.74, 16 d = 65.19, 261 / 4 = 65.25
        (0.25, 0, 59, 59, 0, 59),  # d = 0.92593: enlarged
    ],
)
def test_coordinates_pixels_and_features(
    slide_path: Path,
    tissue_file: Path,
    tmp_path: Path,
    target_mpp: float,
    overlap: int,
    side: int,
    step: int,
    level: int,
    read_px: int,
) -> None:
    wsi = load_wsi(slide_path, tissue_seg_path=tissue_file)
    path = wsi.extract_tissue_coords(None, PATCH_PX, tmp_path / "grid", overlap, target_mpp=target_mpp)
    expected = [
        (x, y)
        for y in range(0, HEIGHT_PX, step)
        for x in range(0, WIDTH_PX, step)
        if any(part.intersects(box(x, y, x + side, y + side)) for part in TISSUE)
    ]
    with h5py.File(path) as file:
        assert [tuple(row) for row in file["coords"][()].tolist()] == expected
        attributes = dict(file["coords"].attrs)
    assert (attributes["target_mpp"], attributes["level0_mpp"]) == (target_mpp, MPP)
    assert (attributes["patch_size"], attributes["patch_size_level0"], attributes["overlap"]) == (64, side, overlap)
    assert attributes["level0_magnification"] == 40
    assert attributes["target_magnification"] == pytest.approx(40 * MPP / target_mpp)

    with openslide.OpenSlide(slide_path) as slide:
        true = [_patch(slide, corner, level, read_px) for corner in expected]
    folder = Path(wsi.dump_patches(path, tmp_path / "images"))
    for index, ((x, y), pixels) in enumerate(zip(expected, true, strict=True)):
        dumped = np.asarray(Image.open(folder / f"{index:06d}_x{x}_y{y}.png")).astype(int)
        assert np.abs(dumped - pixels).max() <= 1, f"patch at {x}, {y}"

    features = Path(wsi.extract_patch_features(_mean_colour(), path, tmp_path / "features", "cpu"))
    found = h5.read_features(features)
    np.testing.assert_allclose(found.features, [patch.mean(axis=(0, 1)) / 255 for patch in true], atol=0.3 / 255)
    assert {key: found.coords_attributes[key] for key in ("target_mpp", "level0_mpp", "patch_size_level0")} == {
        "target_mpp": target_mpp,
        "level0_mpp": MPP,
        "patch_size_level0": side,
    }
    picture = np.asarray(Image.open(wsi.visualize_coords(path, tmp_path / "pictures")))
    assert picture.shape[2] == 3
    options = {"dst_pixel_size": target_mpp, "overlap": overlap, "mask": TISSUE, "threshold": 0, "coords_only": True}
    assert list(WSIPatcher(wsi, PATCH_PX, **options)) == expected


def _job(folder: Path, slide_path: Path) -> Processor:
    job = Processor(folder / "job", slide_path.parent)
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    return job


def test_processor_by_resolution_and_by_magnification_do_not_mix(slide_path: Path, tmp_path: Path) -> None:
    job = _job(tmp_path, slide_path)
    grid = Path(job.run_patching_job(None, PATCH_PX, target_mpp=0.5))
    assert grid.name == "0.5mpp_64px_0px_overlap"
    assert Path(job.run_patching_job(20, PATCH_PX)).name == "20x_64px_0px_overlap"
    job.run_patch_feature_extraction_job(grid, _mean_colour(), "cpu")
    embedding = Path(job.run_slide_feature_extraction_job(MeanSlideEncoder("mean-mean-colour"), grid, "cpu"))
    rows = h5.read_features(grid / "features_mean-colour" / "drawn.h5").features
    whole = h5.read_slide_features(embedding / "drawn.h5")
    np.testing.assert_allclose(whole.features, rows.mean(axis=0), rtol=1e-5)
    assert whole.coords_attributes["target_mpp"] == 0.5

    shared = job.run_patching_job(None, PATCH_PX, saveto="shared", target_mpp=0.5)
    before = (Path(shared) / "patches" / "drawn_patches.h5").read_bytes()
    changes: tuple[tuple[float | None, dict[str, Any], str], ...] = (
        (None, {"target_mpp": 0.6}, r"target_mpp: 0\.5 -> 0\.6"),
        (20, {}, "magnification: by target_mpp -> 20"),
    )
    for magnification, options, difference in changes:
        with pytest.raises(RecipeMismatchError, match=difference):
            job.run_patching_job(magnification, PATCH_PX, saveto="shared", **options)
    assert (Path(shared) / "patches" / "drawn_patches.h5").read_bytes() == before
    by_magnification = job.run_patching_job(20, PATCH_PX, saveto="other")
    with pytest.raises(RecipeMismatchError, match="magnification: 20 -> by target_mpp"):
        job.run_patching_job(None, PATCH_PX, saveto=by_magnification, target_mpp=0.5)


def test_the_command_runs_by_resolution_and_keeps_what_contradicts(
    tmp_path: Path, run_batch: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    slide, job = tmp_path / "wsis" / "odd.svs", tmp_path / "job"
    image = render_demo_slide(seed=5, width_px=1024, height_px=768, mpp=0.5)
    write_svs(slide, image, mpp=0.5, magnification=40)  # half the nominal µm/px of its objective
    where = ("--wsi_dir", slide.parent, "--job_dir", job)
    what = ("--segmenter", "otsu", "--patch_encoder", "stain-stats", "--slide_encoder", "mean-stain-stats")
    grid = ("--patch_size", 64, "--gpus", "-1")
    done = run_batch("--task", "all", *where, *what, *grid, "--target_mpp", 0.75)
    assert done.code == OK, done.err
    made = job / "0.75mpp_64px_0px_overlap"
    with h5py.File(made / "slide_features_mean-stain-stats" / "odd.h5") as file:
        assert file["coords"].attrs["patch_size_level0"] == 96
    (state,) = (job / "wsi_states").glob("odd__*.json")
    notes = json.loads(state.read_text())["summary"]["notes"]
    assert [note for note in notes if "objective power 40x (openslide.objective-power), but 0.5 µm/px" in note]

    (tmp_path / "patients.csv").write_text("patient,wsi\np,odd.svs\n")
    patients = ("--patients", tmp_path / "patients.csv", "--slide_encoder", "mean-stain-stats")
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in ("pool", "--job_dir", job, *patients, *grid, "--target_mpp", 0.75)])
    assert end.value.code == OK, capsys.readouterr().err
    assert (made / "patient_features_mean-stain-stats" / "p.h5").exists()

    refused = run_batch("--task", "all", *where, *what, *grid, "--target_mpp", 0.75, "--mag", 20)
    assert refused.code == USAGE
    assert refused.err.count("\n") == 1
    assert "--target_mpp 0.75 and --mag 20" in refused.err


@pytest.mark.parametrize(("magnification", "target_mpp"), [(20, 0.5), (None, None)])
def test_exactly_one_scale(magnification: float | None, target_mpp: float | None) -> None:
    with pytest.raises(SettingsError, match="give one of the two"):
        GridOptions(magnification, 256, target_mpp=target_mpp)


def test_a_useless_resolution_is_refused(slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    wsi = load_wsi(slide_path, tissue_seg_path=tissue_file)
    with pytest.raises(SettingsError, match="--target_mpp"):
        wsi.extract_tissue_coords(None, PATCH_PX, tmp_path / "grid", target_mpp=-1)
    assert not list((tmp_path / "grid").rglob("*.h5"))


def test_the_users_own_resolution_counts(slide_path: Path, tissue_file: Path, tmp_path: Path) -> None:
    wsi = load_wsi(slide_path, tissue_seg_path=tissue_file, mpp=0.25)
    found = h5.read_coords(Path(wsi.extract_tissue_coords(None, PATCH_PX, tmp_path, target_mpp=0.5)))
    assert (found.attributes["level0_mpp"], found.attributes["patch_size_level0"]) == (0.25, 128)
