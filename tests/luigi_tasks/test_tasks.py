"""The task classes: what identifies them, what they need, and in which order they run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luigi
import pytest

from luigi_tasks import PatchCoords, PatchFeatures, RunCohort, SegmentSlide, SlideEmbedding
from luigi_tasks.jobs import resolve
from luigi_tasks.options import option_parameters
from luigi_tasks.run_cohort import run_cohort_task
from luigi_tasks.tasks import TASK_OF_KIND, task_for
from trident.errors import SettingsError, StoreError
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, load_job
from trident.settings import Settings

pytestmark = pytest.mark.usefixtures("quiet_process")


@pytest.fixture
def options(tmp_path: Path, drawn_slides: Callable[..., Path]) -> dict[str, Any]:
    return {
        "job_dir": tmp_path / "job",
        "wsi_dir": drawn_slides(tmp_path / "wsis", "a.svs", "b.svs"),
        "segmenter": "otsu",
        "patch_encoder": "stain-stats",
        "slide_encoder": "mean-stain-stats",
        "gpus": "-1",
        "task": "all",
    }


@pytest.fixture
def job(options: dict[str, Any]) -> str:
    return resolve(options)


def test_every_option_but_the_schedulers_is_a_parameter_with_dashes() -> None:
    assert set(option_parameters()) == set(Settings.model_fields) - {"scheduler_url"}
    for task_class in (SegmentSlide, PatchCoords, PatchFeatures, SlideEmbedding, RunCohort):
        assert set(option_parameters()) <= {name for name, _ in task_class.get_params()}


def test_a_tasks_identity_is_its_job_and_its_slide(job: str) -> None:
    for kind in TASK_OF_KIND:
        task = task_for(kind, job, "a")
        assert task.to_str_params() == {"job": job, "slide": "a"}
        assert str(task) == f"{type(task).__name__}(job={job}, slide=a)"
        assert task is task_for(kind, job, "a")
    assert run_cohort_task(job, "1").to_str_params() == {"job": job, "run_id": "1"}


def test_options_become_a_job_file(options: dict[str, Any]) -> None:
    task = SegmentSlide(slide="b", **options)
    assert task.job == resolve(options)
    assert load_job(Path(task.job)).settings.segmenter == "otsu"


def test_a_task_alone_makes_all_stages_up_to_its_own(options: dict[str, Any]) -> None:
    del options["task"]
    expected = {
        SegmentSlide: ["segmentation"],
        PatchCoords: ["segmentation", "coords"],
        PatchFeatures: ["segmentation", "coords", "patch_features:stain-stats"],
        SlideEmbedding: [
            *("segmentation", "coords", "patch_features:stain-stats"),
            "slide_features:mean-stain-stats",
        ],
    }
    for task_class, stages in expected.items():
        task = task_class(slide="a", **options)
        assert list(load_job(Path(task.job)).stages) == stages


def test_a_task_needs_the_stage_before_it_where_the_job_makes_that(options: dict[str, Any], job: str) -> None:
    chain = []
    task: Any = task_for(SLIDE_FEATURES, job, "a")
    while task:
        chain.append(task.kind)
        task = task.requires()
    assert chain == [SLIDE_FEATURES, PATCH_FEATURES, COORDS, SEGMENTATION]
    only_features = resolve({**options, "task": "feat"})
    assert task_for(PATCH_FEATURES, only_features, "a").requires() == []


def test_slides_run_in_order_and_later_stages_first(job: str) -> None:
    by_priority = sorted(
        (task_for(kind, job, slide) for kind in TASK_OF_KIND for slide in ("a", "b")),
        key=lambda task: -task.priority,
    )
    assert [(task.kind, task.slide) for task in by_priority] == list(
        itertools.product((SLIDE_FEATURES, PATCH_FEATURES, COORDS, SEGMENTATION), "ab")
    )
    assert all(task.priority > 0 for task in by_priority)


@pytest.mark.parametrize(
    ("task_class", "changes", "error", "says"),
    [
        (SegmentSlide, {"slide": "c"}, SettingsError, "--slide c: the job has no slide of this name"),
        (SegmentSlide, {}, SettingsError, "the job has 2 slides; name one with --slide, or give --slide-path"),
        (SegmentSlide, {"mag": "fast"}, SettingsError, "--mag fast"),
        (SegmentSlide, {"slide": "a", "dry_run": True}, SettingsError, "--dry-run is an option of RunCohort"),
        (SegmentSlide, {"slide": "a", "task_timeout": 9}, SettingsError, "--task-timeout is an option of RunCohort"),
        (RunCohort, {"mag": "fast"}, SettingsError, "--mag fast"),
        (RunCohort, {"job": "/none/job.json"}, StoreError, "/none/job.json: not a readable job file"),
    ],
)
def test_what_a_task_refuses(
    options: dict[str, Any], task_class: type[luigi.Task], changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        task_class(**{**options, **changes})
    assert says in str(caught.value)


def test_one_slide_needs_no_name(options: dict[str, Any]) -> None:
    wsi_dir = options.pop("wsi_dir")
    assert SegmentSlide(slide_path=wsi_dir / "a.svs", **options).slide == "a"


def test_a_target_exists_when_its_stage_is_done(job: str) -> None:
    task = task_for(SEGMENTATION, job, "a")
    assert not task.complete()
    assert task.output().path.endswith("contours_geojson/a.geojson")
    task.run()
    assert task.complete()
    assert task.result is not None
    assert task.result.message.endswith("tissue regions")


def test_a_dry_run_saves_no_job_file(options: dict[str, Any]) -> None:
    path = resolve({**options, "dry_run": True})
    assert not Path(path).exists()
    assert not options["job_dir"].exists()
