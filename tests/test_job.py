"""Jobs: options checked against each other, and frozen in a file that any machine can read."""

from __future__ import annotations

import json
import logging
import os
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
    loaded = load_job(job.save(), host=(("gpus", (-1,)),))
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
    assert load_job(path).settings.mag == 10


def test_how_a_host_does_the_work_is_no_part_of_the_job(
    make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(gpus="0 1", max_workers=2, batch_size=8, scheduler_url="http://localhost:1")
    there = make(gpus="-1", max_workers=9, wsi_cache="/somewhere")
    assert here.digest == there.digest
    assert make(mag=10).digest != here.digest
    path = here.save()
    monkeypatch.setenv("TRIDENT_GPUS", "3")
    assert load_job(path).settings.gpus == (3,)
    assert load_job(path, host=(("gpus", (4, 5)),)).settings.gpus == (4, 5)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"settings": {}}', '{"settings": {"job_dir": 3}, "slides": [], "kinds": [], "nonce": ""}'],
)
def test_a_bad_job_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"job\.json: not a readable job file .*; start the run again"):
        load_job(path)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "..", ""])
def test_a_job_file_with_a_name_that_leads_elsewhere_is_refused(make: Callable[..., Job], name: str) -> None:
    path = make().save()
    content = json.loads(path.read_text())
    content["slides"][0]["name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="would lead out of the job directory"):
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


@pytest.mark.parametrize(
    ("options", "encoders"),
    [
        ({}, ["conch_v15"]),
        ({"patch_encoder": "uni_v1 stain-stats,uni_v1"}, ["uni_v1", "stain-stats"]),
        ({"slide_encoder": "mean-stain-stats"}, ["stain-stats"]),
        ({"slide_encoder": "mean-stain-stats", "patch_encoder": ["uni_v1"]}, ["uni_v1", "stain-stats"]),
        ({"slide_encoder": "mean-stain-stats", "patch_encoder": ["stain-stats", "uni_v1"]}, ["stain-stats", "uni_v1"]),
        ({"slide_encoder": "abmil", "patch_encoder": "uni_v2"}, ["uni_v2"]),
    ],
)
def test_patch_encoders_are_those_asked_for_and_the_one_that_the_slide_encoder_needs(
    tmp_path: Path, wsis: Path, options: dict[str, Any], encoders: list[str]
) -> None:
    given = {"job_dir": tmp_path / "job", "wsi_dir": wsis, "segmenter": "otsu", "task": "feat", **options}
    job = create_job(load_settings(**given), kinds=(PATCH_FEATURES,))
    assert list(job.patch_encoders) == encoders
    assert list(job.stages) == [f"patch_features:{name}" for name in encoders]
    assert load_job(job.save()).stages == job.stages
    if options.get("slide_encoder", "").startswith("mean-"):
        assert job.patch_encoder == "stain-stats"


@pytest.mark.parametrize(
    ("option", "value"), [("patch_encoder_ckpt_path", "weights.pt"), ("patch_encoder_img_size", 224)]
)
def test_options_of_one_patch_encoder_are_refused_for_several(
    make: Callable[..., Job], option: str, value: object
) -> None:
    with pytest.raises(SettingsError, match=f"--{option} is for one patch encoder, and this run has uni_v1, uni_v2"):
        make(task="all", patch_encoder="uni_v1 uni_v2", **{option: value})
    make(task="seg", patch_encoder="uni_v1 uni_v2", **{option: value})


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
        ({"target_mpp": 0.5, "patch_size": 256}, "0.5mpp_256px_0px_overlap"),
    ],
)
def test_the_grid_directory(make: Callable[..., Job], options: dict[str, Any], grid: str, tmp_path: Path) -> None:
    assert make(**options).layout.grid_dir == tmp_path / "job" / grid


@pytest.mark.parametrize(("target_mpp", "fits"), [(0.5, True), (0.46, True), (0.25, False), (0.6, False)])
def test_a_slide_encoder_takes_the_resolution_of_its_magnification(
    make: Callable[..., Job], target_mpp: float, fits: bool
) -> None:
    options = {"task": "all", "slide_encoder": "titan", "patch_size": 512, "target_mpp": target_mpp}
    if fits:
        assert make(**options).slide_encoder == "titan"
        return
    with pytest.raises(
        SettingsError, match=rf"--target_mpp {target_mpp:g} is about .* --mag 20 about --target_mpp 0\.5"
    ):
        make(**options)


@pytest.mark.parametrize(("target_mpp", "warned"), [(0.5, False), (1.0, True)])
def test_a_patch_encoder_at_another_resolution_is_told(
    make: Callable[..., Job], caplog: pytest.LogCaptureFixture, target_mpp: float, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING, logger="trident.job"):
        make(task="all", patch_encoder="uni_v1", patch_size=256, target_mpp=target_mpp)
    told = "uni_v1 was made for patches of 256 px at 20x; this run gives it 256 px at 1 µm/px" in caplog.text
    assert told == warned


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


def test_a_gpu_that_is_named_twice_is_told(make: Callable[..., Job], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="trident.job"):
        make(gpus="0 1 0")
    assert "--gpus 0 1 0: a GPU that is named twice counts once" in caplog.text


def test_paths_are_absolute_so_that_a_job_file_means_the_same_everywhere(
    clean_settings: Path, drawn_slides: Callable[..., Path]
) -> None:
    drawn_slides(clean_settings / "wsis", "a.svs")
    job = create_job(load_settings(job_dir="job", wsi_dir="wsis", segmenter="otsu"))
    assert job.settings.job_dir == clean_settings / "job"
    assert job.slides["a"].path == clean_settings / "wsis" / "a.svs"


@pytest.mark.parametrize(
    ("wsi_dir", "job_dir"),
    [
        ("sub/../wsis", "sub/../job"),
        ("../{here}/wsis", "../{here}/job"),
        ("link/../wsis", "link/../job"),
        ("sub/link/../../wsis/.", "no/such/../../folder/../job"),
    ],
)
def test_paths_are_without_dots_and_mean_what_the_kernel_takes_them_for(
    wsi_dir: str, job_dir: str, clean_settings: Path, drawn_slides: Callable[..., Path]
) -> None:
    base = clean_settings
    (base / "sub").mkdir()
    elsewhere = base / "elsewhere" / "folder"
    elsewhere.mkdir(parents=True)
    (base / "link").symlink_to(elsewhere)
    (base / "sub" / "link").symlink_to(elsewhere)
    for folder in (base, base / "elsewhere"):
        drawn_slides(folder / "wsis", "a.svs")
    wsi_dir, job_dir = (name.format(here=base.name) for name in (wsi_dir, job_dir))
    job = create_job(load_settings(job_dir=job_dir, wsi_dir=wsi_dir, segmenter="otsu"))
    for path in (job.settings.wsi_dir, job.settings.job_dir, job.slides["a"].path):
        assert path is not None and path.is_absolute() and ".." not in path.parts
    assert (base / wsi_dir / "a.svs").samefile(job.slides["a"].path)
    assert os.path.realpath(base / job_dir) == os.path.realpath(job.settings.job_dir)
    job.save()
    assert (base / "elsewhere" / "job" if "link" in job_dir else base / "job").is_dir()


def test_a_dicom_folder_by_its_path(make: Callable[..., Job], tmp_path: Path) -> None:
    folder = tmp_path / "TCGA-3C-DX1.F6E9A5DF"
    folder.mkdir()
    for name, content in (("a.dcm", b"12345"), ("b.dcm", b"123"), ("readme.txt", b"of no slide")):
        (folder / name).write_bytes(content)
    (source,) = make(slide_path=folder).slides.values()
    assert (source.name, source.size_bytes) == ("TCGA-3C-DX1.F6E9A5DF", 8)
