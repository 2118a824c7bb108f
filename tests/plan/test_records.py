"""What earlier runs tell about time, from state files and outputs made for the purpose."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trident.errors import SettingsError
from trident.job import create_job
from trident.plan.records import Records, read_records
from trident.settings import load_settings
from trident.stages.plan import JobStages
from trident.store import geojson, h5
from trident.store.layout import JobLayout
from trident.store.recipes import Recipe
from trident.store.states import SlideInfo, SlideStateFile

GRID = "20x_256px_0px_overlap"
KEY = "patch_features:stain-stats"


@pytest.fixture
def read(tmp_path: Path, clean_settings: Path, drawn_slides: Callable[..., Path]) -> Callable[..., Records]:
    """Function (*folders, on_gpu): records of job directories for a job of all stages."""
    drawn_slides(tmp_path / "wsis", "a.svs")

    def read(*folders: Path, on_gpu: bool = False, **options: Any) -> Records:
        usual = {"segmenter": "otsu", "patch_encoder": "stain-stats", "slide_encoder": "mean-stain-stats", "mag": 20}
        usual |= {"wsi_dir": tmp_path / "wsis", "job_dir": tmp_path / "new", "patch_size": 256, "task": "all"}
        stages = JobStages(create_job(load_settings(**{**usual, **options})))
        return read_records(folders, stages.all_of("a"), on_gpu=on_gpu)

    return read


def _features(folder: Path, name: str, n_patches: int, timings: dict[str, float], **made: Any) -> None:
    """A state that says that features were made, and the features."""
    layout = JobLayout(folder, made.get("grid", GRID))
    path = layout.patch_features(name, "stain-stats")
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"patch_encoder": "stain-stats", "patch_encoder_img_size": "usual", "precision": "auto"}
    recipe = Recipe(KEY, settings | made.get("settings", {}), {}, {"device": made.get("device", "cpu")})
    coords = np.zeros((n_patches, 2), np.int64)
    attributes = {"dim": 1}
    with h5.FeatureFileWriter(
        path, n_rows=n_patches, dim=1, coords=coords, coords_attributes=attributes, encoder="x", name=name,
        savetodir="", recipe=recipe,
    ) as file:  # fmt: skip
        if n_patches:
            file.append(np.zeros((n_patches, 1), np.float32))
    _record(folder, name, KEY, {"features": path}, timings)


def _record(folder: Path, name: str, key: str, outputs: dict[str, Path], timings: dict[str, float]) -> Path:
    state = SlideStateFile(JobLayout(folder, GRID), SlideInfo.of(folder / f"{name}.svs", name))
    state.begin(key)
    state.set_meta(dimensions=(4000, 1000), mpp=0.5, mag=20, level_count=1)
    state.finish(key, "completed", outputs=outputs, timings=timings)
    return state.path


def test_time_is_divided_into_what_grows_with_the_patches_and_what_does_not(read: Any, tmp_path: Path) -> None:
    old = tmp_path / "old"
    for number, n_patches in enumerate((100, 300)):
        parts = {"wait": 0.01 * n_patches, "encode": 0.02 * n_patches, "write": 0.001 * n_patches, "others": 0.0}
        load = {"load": 5.0 if number == 0 else 0.0, "open": 0.3}
        total = sum(parts.values()) + load["load"] + 0.5
        _features(old, f"s{number}", n_patches, {**parts, **load, "total": total})
    rate = read(old).rates[KEY]
    assert (rate.unit, rate.slide_s) == ("patches", pytest.approx(0.5))
    assert (rate.unit_s, rate.own_unit_s, rate.load_s) == pytest.approx((0.01, 0.021, 5.0))
    assert rate.basis == f"2 slides in {old}"


def test_of_several_encoders_each_has_its_own_share(read: Any, tmp_path: Path) -> None:
    """The total of one encoder holds what the others took, their loading too."""
    timings = {"wait": 1.0, "encode": 2.0, "write": 0.5, "others": 30.0, "open": 0.25, "load": 1.0, "total": 99.0}
    _features(tmp_path / "old", "s", 100, timings)
    rate = read(tmp_path / "old").rates[KEY]
    assert (rate.slide_s, rate.unit_s, rate.own_unit_s) == pytest.approx((0.25, 0.01, 0.025))


def test_records_of_the_same_grid_come_first(read: Any, tmp_path: Path) -> None:
    old = tmp_path / "old"
    _features(old, "a", 100, {"encode": 1.0, "total": 1.0})
    _features(old, "b", 100, {"encode": 9.0, "total": 9.0}, grid="20x_512px_0px_overlap")
    assert read(old).rates[KEY].own_unit_s == pytest.approx(0.01)
    other = read(old, patch_size=128).rates[KEY]
    assert other.own_unit_s == pytest.approx(0.05)
    assert other.basis == f"2 slides in {old}, of another grid"


@pytest.mark.parametrize(
    ("made", "counts"),
    [
        ({}, True),
        ({"device": "cuda:0"}, False),
        ({"settings": {"patch_encoder_img_size": 448}}, False),
        ({"settings": {"precision": "float16"}}, False),
    ],
)
def test_only_what_was_made_alike_counts(made: dict[str, Any], counts: bool, read: Any, tmp_path: Path) -> None:
    _features(tmp_path / "old", "a", 10, {"encode": 1.0, "total": 1.0}, **made)
    assert (KEY in read(tmp_path / "old").rates) == counts
    assert (KEY in read(tmp_path / "old", on_gpu=True).rates) == ("device" in made)


def test_outlines_of_another_segmenter_tell_nothing(read: Any, tmp_path: Path) -> None:
    for name, segmenter, seconds in (("a", "otsu", 8.0), ("b", "hest", 400.0)):
        path = JobLayout(tmp_path / "old", GRID).tissue(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        geojson.write_tissue(path, [], Recipe("segmentation", {"segmenter": segmenter}))
        _record(tmp_path / "old", name, "segmentation", {"geojson": path}, {"total": seconds})
        if name == "a":
            expected = path.stat().st_size
    found = read(tmp_path / "old")
    assert found.rates["segmentation"].seconds(4.0) == pytest.approx(8.0)
    assert found.picture_bytes["segmentation"] == expected


def test_a_record_without_phases_still_says_how_long_it_took(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "old" / GRID / "features_stain-stats" / "a.h5"
    path.parent.mkdir(parents=True)
    h5.write_coords(path, np.zeros((50, 2), np.int64), {}, None)
    state = _record(tmp_path / "old", "a", KEY, {"features": path}, {})
    content = json.loads(state.read_text())
    content["tasks"][KEY]["attempts"][-1]["duration_s"] = 5.0
    state.write_text(json.dumps(content))
    assert read(tmp_path / "old").rates[KEY].seconds(100) == pytest.approx(10.0)


@pytest.mark.parametrize(
    "change",
    [
        {"timings": {"total": "long"}, "attempts": []},
        {"timings": {"total": -1.0}, "attempts": []},
        {"timings": [], "attempts": []},
        {"status": "error"},
        {"outputs": {}},
        {"outputs": {"features": {"path": 7}}},
        {"outputs": {"features": {"path": "/dev/zero"}}},
        {"outputs": {"features": {"path": "fifo"}}},
    ],
)
def test_what_is_written_strangely_is_left_out(change: dict[str, Any], read: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    _features(tmp_path / "old", "a", 10, {"encode": 1.0, "total": 1.0})
    (state,) = (tmp_path / "old" / "wsi_states").glob("*.json")
    text = json.dumps(json.loads(state.read_text())["tasks"][KEY] | change).replace('"fifo"', f'"{tmp_path}/fifo"')
    content = json.loads(state.read_text())
    content["tasks"][KEY] = json.loads(text)
    state.write_text(json.dumps(content))
    assert KEY not in read(tmp_path / "old").rates


def test_folders(read: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert read(tmp_path / "empty") == read() == Records({}, {})
    with pytest.raises(SettingsError, match=r"--records .*nowhere: no such folder"):
        read(tmp_path / "nowhere")
