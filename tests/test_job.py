"""Jobs: options checked against each other, and frozen in a file that any machine can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.errors import DiscoveryError, NotAvailableError, SettingsError, SlideError, StoreError, TridentError
from trident.job import (
    COORDS,
    PATCH_FEATURES,
    SEGMENTATION,
    SLIDE_FEATURES,
    Job,
    create_job,
    load_job,
)
from trident.settings import load_settings

pytestmark = pytest.mark.usefixtures("clean_settings")


@pytest.fixture
def wsis(tmp_path: Path, drawn_slides: Callable[..., Path]) -> Path:
    return drawn_slides(tmp_path / "wsis", "a.svs", "b.svs")


@pytest.fixture
def make(wsis: Path, tmp_path: Path) -> Callable[..., Job]:
    def make_job(nonce: str = "", kinds: tuple[str, ...] | None = None, **options: Any) -> Job:
        where = {} if "slide_path" in options else {"wsi_dir": wsis}
        given = {"job_dir": tmp_path / "job", "segmenter": "otsu", "patch_encoder": "stain-stats", **where, **options}
        return create_job(load_settings(**given), nonce=nonce, kinds=kinds)

    return make_job


def test_equal_options_give_one_digest_and_one_file(make: Callable[..., Job]) -> None:
    one, other = make(mag=10), make(mag="10.0")
    assert one.digest == other.digest
    assert one.save() == other.save()
    assert [path.name for path in one.path.parent.iterdir()] == [f"{one.digest}.json"]
    assert len(one.digest) == 16


@pytest.mark.parametrize("option", [{"mag": 5}, {"patch_size": 256}, {"task": "all"}, {"remove_holes": True}])
def test_another_option_gives_another_digest(make: Callable[..., Job], option: dict[str, Any]) -> None:
    assert make().digest != make(**option).digest


def test_another_slide_gives_another_digest(make: Callable[..., Job], wsis: Path) -> None:
    before = make().digest
    (wsis / "b.svs").unlink()
    assert make().digest != before


def test_a_nonce_counts_only_with_overwrite(make: Callable[..., Job]) -> None:
    assert make(nonce="1").digest == make(nonce="2").digest
    assert make(nonce="1").nonce == ""
    assert make(nonce="1", overwrite=True).digest != make(nonce="2", overwrite=True).digest


def test_a_job_survives_its_file(make: Callable[..., Job], wsis: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("wsi,mpp\nb.svs,0.3\n")
    job = make(
        task="all",
        nonce="n",
        overwrite=True,
        gpus=[-1],
        wsi_ext=".svs",
        custom_mpp_keys="k",
        custom_list_of_wsis=table,
        slide_encoder="mean-stain-stats",
    )
    loaded = load_job(job.save())
    assert loaded.settings == job.settings
    assert dict(loaded.slides) == dict(job.slides)
    assert loaded.slides["b"].mpp == 0.3
    assert (loaded.kinds, loaded.nonce, loaded.digest) == (job.kinds, job.nonce, job.digest)
    assert loaded.stages == (
        "segmentation",
        "coords",
        "patch_features:stain-stats",
        "slide_features:mean-stain-stats",
    )


def test_a_job_file_is_not_changed_by_the_environment_of_its_reader(
    make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(mag=10).save()
    monkeypatch.setenv("TRIDENT_MAG", "40")
    monkeypatch.setenv("TRIDENT_GPUS", "3")
    loaded = load_job(path)
    assert (loaded.settings.mag, loaded.settings.gpus) == (10, None)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"settings": {}}', '{"settings": {"job_dir": 3}, "slides": [], "kinds": [], "nonce": ""}'],
)
def test_a_bad_job_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"job\.json: not a readable job file .*; start the run again"):
        load_job(path)


def test_a_missing_job_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone\.json: not a readable job file"):
        load_job(tmp_path / "gone.json")


@pytest.mark.parametrize("drop", ["settings", "slides", "kinds", "nonce"])
def test_a_job_file_without_a_part_is_refused(make: Callable[..., Job], drop: str, tmp_path: Path) -> None:
    content = json.loads(make().save().read_text())
    del content[drop]
    path = tmp_path / "job.json"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="not a readable job file"):
        load_job(path)


@pytest.mark.parametrize(
    ("task", "slide_encoder", "kinds"),
    [
        ("seg", None, ("segmentation",)),
        ("seg", "mean-stain-stats", ("segmentation",)),
        ("coords", None, ("coords",)),
        ("feat", None, ("patch_features:stain-stats",)),
        ("feat", "mean-stain-stats", ("patch_features:stain-stats", "slide_features:mean-stain-stats")),
        ("all", None, ("segmentation", "coords", "patch_features:stain-stats")),
    ],
)
def test_a_task_makes_its_stages(
    make: Callable[..., Job], task: str, slide_encoder: str | None, kinds: tuple[str, ...]
) -> None:
    job = make(task=task, slide_encoder=slide_encoder)
    assert job.stages == kinds
    for kind in (SEGMENTATION, COORDS, PATCH_FEATURES, SLIDE_FEATURES):
        assert job.makes(kind) == any(key.split(":")[0] == kind for key in kinds)


def test_kinds_of_one_task_of_the_graph_stand_instead_of_the_task(make: Callable[..., Job]) -> None:
    assert make(task="seg", kinds=(SEGMENTATION, COORDS)).stages == ("segmentation", "coords")


def test_the_slide_encoder_decides_the_patch_encoder(
    make: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="trident.job"):
        job = make(task="all", slide_encoder="mean-stain-stats", patch_encoder="uni_v1")
    assert job.patch_encoder == "stain-stats"
    assert "--patch_encoder uni_v1 is not used: slide encoder mean-stain-stats needs stain-stats" in caplog.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mean-kaiko-vit8s", "mean-kaiko-vits8"),
        ("mean-kaiko-vit16s", "mean-kaiko-vits16"),
        ("mean-kaiko-vit8b", "mean-kaiko-vitb8"),
        ("mean-kaiko-vit16b", "mean-kaiko-vitb16"),
        ("mean-kaiko-vit14l", "mean-kaiko-vitl14"),
    ],
)
def test_old_spellings_of_slide_encoders_name_the_same_outputs(make: Callable[..., Job], old: str, new: str) -> None:
    job = make(task="seg", slide_encoder=old)
    assert job.slide_encoder == new
    assert job.patch_encoder == new.removeprefix("mean-")


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({}, "20x_512px_0px_overlap"),
        ({"mag": 2.5, "patch_size": 256, "overlap": 32}, "2.5x_256px_32px_overlap"),
        ({"coords_dir": "mine/grid"}, "mine/grid"),
    ],
)
def test_the_grid_directory(make: Callable[..., Job], options: dict[str, Any], grid: str, tmp_path: Path) -> None:
    assert make(**options).layout.grid_dir == tmp_path / "job" / grid


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"wsi_dir": None}, SettingsError, "--wsi_dir"),
        ({"slide_path": "a.svs", "wsi_dir": "."}, SettingsError, "either --wsi_dir"),
        ({"overlap": 512}, SettingsError, "--overlap 512 must be smaller than --patch_size 512"),
        (
            {"task": "all", "segmenter": "otsu", "patch_encoder": "uni_v1", "patch_encoder_img_size": 225},
            SettingsError,
            "img_size 225 of patch encoder uni_v1 is not a multiple of its token size, 16 px",
        ),
        (
            {"task": "all", "segmenter": "otsu", "slide_encoder": "titan", "patch_size": 256, "overlap": 8},
            SettingsError,
            "give --patch_size 512 --mag 20 --overlap 0",
        ),
        ({"wsi_dir": "nowhere"}, DiscoveryError, "nowhere: the slide folder does not exist; check --wsi_dir"),
        ({"wsi_ext": ".ndpi"}, DiscoveryError, "no slide found with extension .ndpi"),
        ({"slide_path": "gone.svs"}, SlideError, "gone.svs: no such slide"),
        ({"slide_path": "a.svs", "custom_list_of_wsis": "l.csv"}, SettingsError, "needs --wsi_dir"),
        ({"custom_list_of_wsis": "l.csv"}, DiscoveryError, "l.csv"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    make: Callable[..., Job], tmp_path: Path, options: dict[str, Any], error: type[TridentError], says: str
) -> None:
    with pytest.raises(error) as caught:
        make(**options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "job").exists()


def test_an_unavailable_model_matters_only_to_the_stage_that_uses_it(make: Callable[..., Job]) -> None:
    later = {"patch_encoder": "conch_v15", "slide_encoder": "threads"}
    assert make(task="coords", remove_artifacts=True, segmenter="hest", **later).stages == ("coords",)
    with pytest.raises(NotAvailableError, match="not available"):
        make(task="feat", **later)


def test_options_that_this_version_takes_without_using_are_told(
    make: Callable[..., Job], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING, logger="trident.job"):
        make(gpus="-1 -1", wsi_cache=tmp_path / "cache")
    assert "--gpus -1 -1: this version uses one device, the CPU" in caplog.text
    assert "--wsi_cache is not available" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_paths_are_absolute_so_that_a_job_file_means_the_same_everywhere(
    clean_settings: Path, drawn_slides: Callable[..., Path]
) -> None:
    drawn_slides(clean_settings / "wsis", "a.svs")
    job = create_job(load_settings(job_dir="job", wsi_dir="wsis", segmenter="otsu"))
    assert job.settings.job_dir == clean_settings / "job"
    assert job.slides["a"].path == clean_settings / "wsis" / "a.svs"
