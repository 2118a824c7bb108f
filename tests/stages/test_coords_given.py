"""Coordinates that exist already: patch images on request, and coordinates of a tool that needs no µm/px."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from shapely.geometry import box
from torch import nn
from torchvision import transforms

from trident.job import COORDS, PATCH_FEATURES
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.processor import Processor
from trident.slides.discovery import SlideSource, find_slides
from trident.stages.base import Condition, StageContext, run_stage
from trident.stages.coords import CoordsStage, DumpOptions, GridOptions
from trident.stages.segmentation import SegmentationStage
from trident.store import h5
from trident.store.geojson import write_tissue
from trident.store.layout import JobLayout

GRID = GridOptions(magnification=20, patch_size_px=64)
ALL_PNG = DumpOptions()


@pytest.fixture
def source(drawn_slides: Callable[..., Path], tmp_path: Path) -> SlideSource:
    (found,) = find_slides(drawn_slides(tmp_path / "slides", "a.svs"))
    return found


@pytest.fixture
def context(tmp_path: Path, source: SlideSource) -> StageContext:
    """A job whose tissue is there; it makes coordinates."""
    layout = JobLayout(tmp_path / "job", "20x_64px_0px_overlap")
    write_tissue(layout.tissue(source.name), [box(130, 130, 500, 300)], None)
    return StageContext(layout=layout, made=frozenset({COORDS}))


def _stage(context: StageContext, source: SlideSource, dump: DumpOptions | None) -> CoordsStage:
    return CoordsStage(context, source, tissue=SegmentationStage.given(context, source), grid=GRID, dump=dump)


def _images(context: StageContext, source: SlideSource) -> list[str]:
    return sorted(path.name for path in context.layout.patch_images_dir(source.name).glob("*"))


def test_images_are_added_to_coordinates_that_are_done(context: StageContext, source: SlideSource) -> None:
    run_stage(_stage(context, source, None))
    path = _stage(context, source, None).output
    before = (path.stat().st_ino, path.stat().st_mtime_ns)
    coords = h5.read_coords(path).coords.tolist()
    assert len(coords) > 3
    assert _images(context, source) == []

    wanting = _stage(context, source, ALL_PNG)
    assert wanting.status().condition is Condition.MISSING
    result = run_stage(wanting)
    assert result.message == f"{len(coords)} patches, {len(coords)} saved as images"
    assert _images(context, source) == [f"{index:06d}_x{x}_y{y}.png" for index, (x, y) in enumerate(coords)]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before, "the coordinates themselves stay as they are"
    folder = context.layout.patch_images_dir(source.name)
    assert all(Image.open(image).size == (64, 64) for image in folder.iterdir())

    assert _stage(context, source, ALL_PNG).status().done
    folder.joinpath(f"000000_x{coords[0][0]}_y{coords[0][1]}.png").unlink()
    assert not _stage(context, source, ALL_PNG).status().done, "an image was lost"


@pytest.mark.parametrize(
    ("dump", "done"),
    [
        (DumpOptions(limit=3), True),
        (DumpOptions(limit=2), True),
        (DumpOptions(limit=4), False),
        (DumpOptions(), False),
        (DumpOptions(limit=1, image_format="jpg"), False),
    ],
)
def test_images_that_are_enough_are_not_made_again(
    context: StageContext, source: SlideSource, dump: DumpOptions, done: bool
) -> None:
    run_stage(_stage(context, source, DumpOptions(limit=3)))
    assert len(_images(context, source)) == 3
    assert _stage(context, source, dump).status().done is done
    others = replace(context, made=frozenset({PATCH_FEATURES}))
    assert _stage(others, source, dump).status().done, "a run that makes no coordinates makes no images either"


def test_a_slide_without_patches_lacks_no_images(context: StageContext, source: SlideSource) -> None:
    write_tissue(context.layout.tissue(source.name), [], None)
    run_stage(_stage(context, source, ALL_PNG))
    assert _stage(context, source, ALL_PNG).status().done


def test_images_of_coordinates_that_another_program_made(context: StageContext, source: SlideSource) -> None:
    path = context.layout.coords(source.name)
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=np.array([[96, 32]]))
        dataset.attrs.update({"patch_size": 64, "patch_level": 0, "custom_downsample": 2})
    content = path.read_bytes()
    run_stage(_stage(context, source, ALL_PNG))
    assert _images(context, source) == ["000000_x96_y32.png"]
    assert path.read_bytes() == content


def test_clams_coordinates_of_a_slide_without_a_resolution(tmp_path: Path) -> None:
    """Every feature file that is written is recorded as made: nothing of CLAM's needs the µm/px."""
    slides = tmp_path / "slides"
    slides.mkdir()
    Image.fromarray(np.full((200, 300, 3), 200, np.uint8)).save(slides / "plain.png")  # states no µm/px
    job = tmp_path / "job"
    path = job / "clam" / "patches" / "plain.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=np.array([[0, 0], [64, 64]]))
        dataset.attrs.update({"patch_size": 64, "patch_level": 0})
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity())
    encoder = CustomInferenceEncoder("mean-colour", model, transforms.ToTensor(), precision=torch.float32)
    processor = Processor(job, slides)
    folder = processor.run_patch_feature_extraction_job("clam", encoder, "cpu")
    np.testing.assert_allclose(h5.read_features(Path(folder) / "plain.h5").features, 200 / 255, atol=1e-6)
    (state,) = (json.loads(file.read_text()) for file in (job / "wsi_states").glob("*.json"))
    assert state["tasks"]["patch_features:mean-colour"]["status"] == "completed"
    assert state["meta"] == {"dimensions": [300, 200], "mpp": None, "mag": None, "level_count": 1}
