"""trident/processor.py: folders of slides, against the methods of single slides and the command line's job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from shapely.geometry import box
from torch import Tensor, nn

import trident
from trident.demo import draw_demo_slide
from trident.encoders.patch.factory import encoder_factory
from trident.encoders.slide.factory import encoder_factory as slide_encoder_factory
from trident.encoders.slide.mean import MeanSlideEncoder
from trident.errors import (
    DiscoveryError,
    RecipeMismatchError,
)
from trident.job import create_job
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.processor import Processor
from trident.segmentation_models import segmentation_model_factory
from trident.settings import Settings
from trident.slides import registry
from trident.stages.base import Condition
from trident.stages.plan import JobStages
from trident.store import h5
from trident.store.geojson import read_tissue, write_tissue
from trident.wsi import load_wsi

GRID = "20x_128px_0px_overlap"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, one of them in a subfolder, and a folder for both."""
    folder = tmp_path_factory.mktemp("slides")
    draw_demo_slide(folder / "one.svs", seed=1, width_px=1024, height_px=768, mpp=0.5)
    draw_demo_slide(folder / "more" / "two.svs.tif", seed=2, width_px=768, height_px=1024, mpp=0.5)
    return folder


@pytest.fixture
def job(drawn: Path, tmp_path: Path) -> Processor:
    return Processor(tmp_path / "job", drawn, search_nested=True)


def test_paths_have_no_dots(drawn: Path, tmp_path: Path) -> None:
    job = Processor(tmp_path / "x" / ".." / "job", drawn, search_nested=True, wsi_cache=tmp_path / "x" / ".." / "cache")
    assert job.job_dir == str(tmp_path / "job")
    assert job._cache is not None
    assert job._cache.folder == tmp_path / "cache"


@pytest.fixture(scope="module")
def done(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job directory with every stage done; tests only read it."""
    processor = Processor(tmp_path_factory.mktemp("done"), drawn, search_nested=True)
    _all_stages(processor)
    return Path(processor.job_dir)


def _all_stages(processor: Processor) -> list[str]:
    return [
        processor.run_segmentation_job(segmentation_model_factory("otsu")),
        processor.run_patching_job(20, 128),
        processor.run_patch_feature_extraction_job(GRID, encoder_factory("stain-stats"), "cpu"),
        processor.run_slide_feature_extraction_job(slide_encoder_factory("mean-stain-stats"), GRID, "cpu"),
    ]


def _snapshot(job_dir: str) -> dict[str, int]:
    """Every output with the time of its last change."""
    return {
        str(file): file.stat().st_mtime_ns for file in Path(job_dir).rglob("*.*") if file.suffix in (".h5", ".geojson")
    }


def _state(job_dir: str, slide: str) -> dict[str, Any]:
    (path,) = Path(job_dir, "wsi_states").glob(f"{slide}__*.json")
    state: dict[str, Any] = json.loads(path.read_text())
    return state


def _own_encoder(name: str = "own", weight: float = 1.0) -> CustomInferenceEncoder:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(weight))

        def forward(self, batch: Tensor) -> Tensor:
            return batch.mean(dim=(2, 3)) * self.weight

    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)

    return CustomInferenceEncoder(name, Mean(), transform, torch.float32)


def test_slides(drawn: Path, tmp_path: Path) -> None:
    assert trident.Processor is Processor
    flat = Processor(tmp_path, drawn)
    assert [(wsi.name, wsi.ext, wsi.rel_path) for wsi in flat.wsis] == [("one", ".svs", "one.svs")]
    nested = Processor(tmp_path, str(drawn), search_nested=True, reader_type="openslide", max_workers=1)
    assert [(wsi.name, wsi.ext, wsi.rel_path) for wsi in nested.wsis] == [
        ("two.svs", ".tif", "more/two.svs.tif"),
        ("one", ".svs", "one.svs"),
    ]
    assert {(wsi.reader_type, wsi.max_workers, wsi.tissue_seg_path) for wsi in nested.wsis} == {("openslide", 1, None)}
    assert [wsi.name for wsi in Processor(tmp_path, drawn, "tif", search_nested=True).wsis] == ["two.svs"]
    assert list(tmp_path.iterdir()) == []


def test_list_of_slides(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("wsi,mpp\nmore/two.svs.tif,0.25\n")
    (wsi,) = Processor(tmp_path, drawn, custom_list_of_wsis=tmp_path / "list.csv").wsis
    assert (wsi.name, wsi.mpp, wsi.mag) == ("two.svs", 0.25, 40)


def test_folders_that_are_returned(job: Processor) -> None:
    root = Path(job.job_dir)
    assert _all_stages(job) == [
        str(root / "contours_geojson"),
        str(root / GRID),
        str(root / GRID / "features_stain-stats"),
        str(root / GRID / "slide_features_mean-stain-stats"),
    ]
    for wsi in job.wsis:
        assert wsi.tissue_seg_path == str(root / "contours_geojson" / f"{wsi.name}.geojson")
    assert [wsi.tissue_seg_path for wsi in Processor(root, job.wsi_source).wsis] == [
        str(root / "contours_geojson" / "one.geojson")
    ]


def test_outputs_equal_those_of_single_slides(done: Path, drawn: Path, tmp_path: Path) -> None:
    for path, name in ((drawn / "one.svs", "one"), (drawn / "more" / "two.svs.tif", "two.svs")):
        wsi = load_wsi(path)
        tissue = wsi.segment_tissue(segmentation_model_factory("otsu"), job_dir=tmp_path)
        coords = wsi.extract_tissue_coords(20, 128, tmp_path / GRID)
        picture = wsi.visualize_coords(coords, tmp_path / GRID / "visualization")
        features = wsi.extract_patch_features(encoder_factory("stain-stats"), coords, tmp_path / "feats", "cpu")
        embedding = wsi.extract_slide_features(features, slide_encoder_factory("mean-stain-stats"), tmp_path, "cpu")

        assert isinstance(tissue, str)
        assert read_tissue(done / "contours_geojson" / f"{name}.geojson") == read_tissue(Path(tissue))
        for folder in ("thumbnails", "contours"):
            assert (done / folder / f"{name}.jpg").read_bytes() == (tmp_path / folder / f"{name}.jpg").read_bytes()
        assert (done / GRID / "visualization" / f"{name}.jpg").read_bytes() == Path(picture).read_bytes()

        ours, single = h5.read_coords(done / GRID / "patches" / f"{name}_patches.h5"), h5.read_coords(Path(coords))
        assert len(ours.coords) > 5
        np.testing.assert_array_equal(ours.coords, single.coords)
        assert ours.attributes == {**single.attributes, "savetodir": str(done / GRID)}

        rows = h5.read_features(done / GRID / "features_stain-stats" / f"{name}.h5")
        np.testing.assert_array_equal(rows.features, h5.read_features(Path(features)).features)
        np.testing.assert_array_equal(rows.coords, ours.coords)
        whole = h5.read_slide_features(done / GRID / "slide_features_mean-stain-stats" / f"{name}.h5")
        np.testing.assert_array_equal(whole.features, h5.read_slide_features(Path(embedding)).features)
        np.testing.assert_allclose(whole.features, rows.features.astype(np.float64).mean(axis=0), rtol=1e-5, atol=1e-6)


def test_the_command_line_takes_it_as_done(done: Path, drawn: Path) -> None:
    settings = Settings(
        job_dir=done,
        wsi_dir=drawn,
        search_nested=True,
        task="all",
        segmenter="otsu",
        mag=20,
        patch_size=128,
        patch_encoder="stain-stats",
        slide_encoder="mean-stain-stats",
        gpu=-1,
    )
    stages = JobStages(create_job(settings))
    found = {(name, stage.key): stage.status().condition for name in stages.job.slides for stage in stages.all_of(name)}
    assert len(found) == 8
    assert set(found.values()) == {Condition.DONE}
    # Not because anything passes: other settings do not.
    other = JobStages(create_job(settings.model_copy(update={"remove_holes": True})))
    assert other.stage("segmentation", "one").status().condition is Condition.CONFLICT


def test_what_is_done_is_skipped_and_states_say_so(job: Processor) -> None:
    _all_stages(job)
    before = _snapshot(job.job_dir)
    assert len(before) == 8
    again = Processor(job.job_dir, job.wsi_source, search_nested=True)
    _all_stages(again)
    assert _snapshot(job.job_dir) == before
    state = _state(job.job_dir, "two.svs")
    assert state["slide"]["rel_path"] == "more/two.svs.tif"
    assert state["meta"] == {"dimensions": [768, 1024], "mpp": 0.5, "mag": 20, "level_count": 2}
    assert {key: (task["status"], len(task["attempts"])) for key, task in state["tasks"].items()} == {
        "segmentation": ("skipped", 1),
        "coords": ("skipped", 1),
        "patch_features:stain-stats": ("skipped", 1),
        "slide_features:mean-stain-stats": ("skipped", 1),
    }
    assert {attempt["result"] for task in state["tasks"].values() for attempt in task["attempts"]} == {"completed"}
    log = Path(job.job_dir, "_logs_segmentation.txt").read_text()
    assert (log.count("one.svs: "), log.count("two.svs.tif: ")) == (1, 1)


def test_other_settings_are_refused(job: Processor) -> None:
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    job.run_patching_job(20, 128, saveto="grid")
    before = _snapshot(job.job_dir)
    with pytest.raises(RecipeMismatchError, match="remove_holes"):
        job.run_segmentation_job(segmentation_model_factory("otsu"), holes_are_tissue=False)
    with pytest.raises(RecipeMismatchError, match="patch_size"):
        job.run_patching_job(20, 96, saveto="grid")
    assert _snapshot(job.job_dir) == before


def test_an_own_model_with_other_weights_is_not_taken_for_the_same(job: Processor) -> None:
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    job.run_patching_job(20, 128)
    folder = Path(job.run_patch_feature_extraction_job(GRID, _own_encoder(), "cpu"))
    before = _snapshot(str(folder))
    job.run_patch_feature_extraction_job(GRID, _own_encoder(), "cpu")
    assert _snapshot(str(folder)) == before
    with pytest.raises(RecipeMismatchError, match="model_sha256"):
        job.run_patch_feature_extraction_job(GRID, _own_encoder(weight=2.0), "cpu")
    # Its mean takes its features, although no registry knows them.
    slides = Path(job.run_slide_feature_extraction_job(MeanSlideEncoder("mean-own"), GRID, "cpu"))
    expected = h5.read_features(folder / "one.h5").features.mean(axis=0)
    np.testing.assert_allclose(h5.read_slide_features(slides / "one.h5").features, expected, rtol=1e-5)


def test_an_edited_outline_is_honoured(job: Processor) -> None:
    _all_stages(job)
    job.wsis = [wsi for wsi in job.wsis if wsi.name == "one"]
    tissue = Path(job.job_dir) / "contours_geojson" / "one.geojson"
    write_tissue(tissue, [box(130, 130, 250, 250)], None)
    _all_stages(job)
    assert read_tissue(tissue)[0].equals(box(130, 130, 250, 250))
    for folder in ("features_stain-stats", "slide_features_mean-stain-stats"):
        with h5py.File(Path(job.job_dir) / GRID / folder / "one.h5") as file:
            assert file["coords"][()].tolist() == [[128, 128]]


def test_missing_patch_features_are_extracted_first(job: Processor) -> None:
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    grid = job.run_patching_job(20, 128)
    job.run_slide_feature_extraction_job(slide_encoder_factory("mean-stain-stats"), grid, "cpu", saveto="slides")
    for wsi in job.wsis:
        rows = h5.read_features(Path(grid) / "features_stain-stats" / f"{wsi.name}.h5").features
        whole = h5.read_slide_features(Path(job.job_dir) / "slides" / f"{wsi.name}.h5").features
        np.testing.assert_allclose(whole, rows.astype(np.float64).mean(axis=0), rtol=1e-5, atol=1e-6)


def test_where_outputs_go(job: Processor) -> None:
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    grid = Path(job.run_patching_job(10, 64, 8, saveto="grids/mine", visualize=False, min_tissue_proportion=0.5))
    assert grid == Path(job.job_dir) / "grids" / "mine"
    assert {file.name for file in grid.iterdir()} == {"patches", "_config_coords.json", "_logs_coords.txt"}
    config = json.loads((grid / "_config_coords.json").read_text())
    assert (config["magnification"], config["overlap"], config["min_tissue_proportion"]) == (10, 8, 0.5)
    folder = job.run_patch_feature_extraction_job(
        "grids/mine", encoder_factory("stain-stats"), "cpu", saveto="elsewhere"
    )
    assert folder == str(Path(job.job_dir) / "elsewhere")
    assert sorted(file.name for file in Path(folder).iterdir()) == ["one.h5", "two.svs.h5"]
    assert Path(job.run_patching_job(2.5, 64)).name == "2.5x_64px_0px_overlap"


def test_a_slide_of_the_callers_own(drawn: Path, tmp_path: Path) -> None:
    job = Processor(tmp_path / "job", drawn)
    write_tissue(tmp_path / "own.geojson", [box(130, 130, 250, 250)], None)
    job.wsis = [load_wsi(drawn / "one.svs", name="extra", tissue_seg_path=tmp_path / "own.geojson")]
    job.run_patching_job(20, 128)
    assert h5.read_coords(Path(job.job_dir) / GRID / "patches" / "extra_patches.h5").coords.tolist() == [[128, 128]]
    job.wsis.append(load_wsi(drawn / "more" / "two.svs.tif", name="extra"))
    with pytest.raises(DiscoveryError, match="named extra"):
        job.run_patching_job(20, 128)


def test_slides_are_read_from_copies_where_a_cache_is_given(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    opener = registry.open_slide

    def watched(path: Path, **options: Any) -> Any:
        opened.append(Path(path))
        return opener(path, **options)

    monkeypatch.setattr(registry, "open_slide", watched)
    job = Processor(tmp_path / "job", drawn, search_nested=True, wsi_cache=tmp_path / "cache", clear_cache=True)
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "mine.txt").write_text("somebody's own file")
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    assert opened
    # One that is still being copied when its turn comes is read where it lies.
    assert any(path.is_relative_to(tmp_path / "cache") for path in opened)
    assert list((tmp_path / "cache").rglob("*.svs")) == []  # gone with the job
    assert (tmp_path / "cache" / "mine.txt").exists()


def test_features_as_tensors(job: Processor) -> None:
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    job.run_patching_job(20, 128)
    encoder = encoder_factory("stain-stats")
    folder = Path(job.run_patch_feature_extraction_job(GRID, encoder, "cpu", saveas="pt"))
    for wsi in job.wsis:
        tensor = torch.load(folder / f"{wsi.name}.pt", weights_only=True)
        np.testing.assert_array_equal(tensor.numpy(), h5.read_features(folder / f"{wsi.name}.h5").features)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    job.run_patch_feature_extraction_job(GRID, encoder, "cpu", saveas="pt")
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")} == before
