"""Many slides looked at together, with an index of what was read before: the verdicts are those of each stage alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trident.job import Job, create_job
from trident.settings import load_settings
from trident.stages import survey as survey_module
from trident.stages.base import Condition, StageResult, Status, run_stage
from trident.stages.h5_stage import H5Stage
from trident.stages.plan import JobStages
from trident.stages.segmentation import SegmentationStage
from trident.stages.survey import Survey
from trident.stages.tracking import record_result, record_start, state_of
from trident.store import output_view
from trident.store.recipes import RECIPE_KEY

GRID = "20x_128px_0px_overlap"
OUTPUTS = {
    "tissue": "contours_geojson/{}.geojson",
    "coords": GRID + "/patches/{}_patches.h5",
    "features": GRID + "/features_stain-stats/{}.h5",
    "embedding": GRID + "/slide_features_mean-stain-stats/{}.h5",
}

JOBS: dict[str, dict[str, Any]] = {
    "as made": {},
    "only the coordinates": {"task": "coords"},
    "only the features": {"task": "feat"},
    "other outlines": {"remove_holes": True},
    "another grid": {"min_tissue_proportion": 0.5},
    "overwrite": {"overwrite": True},
    "overwrite the features": {"overwrite": True, "task": "feat"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_slides: Callable[..., Path]) -> Iterator[Path]:
    """A folder with two slides and a finished job over them."""
    root = tmp_path_factory.mktemp("made")
    drawn_slides(root / "wsis", "a.svs", "b.svs")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    stages = JobStages(_job(root))
    for slide in "ab":
        for stage in stages.all_of(slide):
            record_start(stage)
            record_result(stage, run_stage(stage))
    yield root
    if hidden is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = hidden


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; what is read from a file is kept, however young it is."""
    monkeypatch.setattr(output_view, "SETTLED_S", 0.0)
    return _copy(made, tmp_path / "root")


def _copy(made: Path, root: Path) -> Path:
    shutil.copytree(made, root)
    _wait_for_a_tick(root)
    return root


def _job(root: Path, **options: Any) -> Job:
    usual = {"segmenter": "otsu", "patch_encoder": "stain-stats", "slide_encoder": "mean-stain-stats", "gpus": "-1"}
    usual |= {"wsi_dir": root / "wsis", "job_dir": root / "job", "mag": 20, "patch_size": 128, "task": "all"}
    return create_job(load_settings(**{**usual, **options}), nonce="this run")


def _alone(job: Job) -> dict[tuple[str, str], Status]:
    """What each stage says by itself, without any index."""
    return {(name, stage.key): stage.status() for name in job.slides for stage in JobStages(job).all_of(name)}


def _together(job: Job) -> dict[tuple[str, str], Status]:
    """A survey as a new process would make it; what it finds out is kept for the next one."""
    survey = Survey(JobStages(job))
    found = survey.statuses(job.slides)
    survey.keep()
    return found


def _wait_for_a_tick(folder: Path) -> None:
    """Wait until a file that changes now gets other times than one that has changed just before."""
    probe = folder / "probe"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        time.sleep(0.001)
        probe.touch()
    probe.unlink()


# What may happen to an output between two runs


def _edit_outline(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["features"][1:]
    path.write_text(json.dumps(content))


def _flip_a_byte(path: Path) -> None:
    """In place, with the same size, and the old date set again."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _drop_recipe(path: Path) -> None:
    if path.suffix == ".geojson":
        content = json.loads(path.read_text())
        content.pop(RECIPE_KEY, None)
        path.write_text(json.dumps(content))
    else:
        with h5py.File(path, "r+") as file:
            file.attrs.pop(RECIPE_KEY, None)


def _change_run(path: Path) -> None:
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            recipe = json.loads(file.attrs[RECIPE_KEY])
            recipe["facts"]["run"] = "this run"
            file.attrs[RECIPE_KEY] = json.dumps(recipe)


def _change_setting(path: Path) -> None:
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            recipe = json.loads(file.attrs[RECIPE_KEY])
            recipe["settings"]["custom_mpp_keys"] = ["other"]
            file.attrs[RECIPE_KEY] = json.dumps(recipe)


def _copy_anew(path: Path) -> None:
    other = path.with_suffix(".new")
    shutil.copy2(path, other)
    other.replace(path)


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def _link_elsewhere(path: Path) -> None:
    moved = path.rename(path.parent.parent / f"moved-{path.name}")
    path.symlink_to(moved)


def _become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _rename_as_clam(path: Path) -> None:
    path.rename(path.with_name(path.name.replace("_patches", "")))


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "touched": Path.touch,
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": _truncate,
    "one byte, same size and date": _flip_a_byte,
    "recipe dropped": _drop_recipe,
    "of this run": _change_run,
    "another setting": _change_setting,
    "copied anew": _copy_anew,
    "a link to nothing": _link_to_nothing,
    "a link elsewhere": _link_elsewhere,
    "a folder": _become_a_folder,
    "named as CLAM does": _rename_as_clam,
    "edited": lambda path: _edit_outline(path) if path.suffix == ".geojson" else None,
}


def _change(root: Path, output: str, change: str, slide: str = "a") -> None:
    path = root / "job" / OUTPUTS[output].format(slide)
    if path.is_file() and path.stat().st_size:
        try:
            CHANGES[change](path)
        except (OSError, ValueError, KeyError):  # an earlier change has left nothing to change that way
            return


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("change", CHANGES)
def test_after_one_change_every_job_gets_the_verdicts_of_its_stages(change: str, output: str, root: Path) -> None:
    _together(_job(root))  # one index serves all jobs
    _wait_for_a_tick(root)
    _change(root, output, change)
    for options in JOBS.values():
        job = _job(root, **options)
        assert _together(job) == _alone(job)


_STEPS = st.lists(
    st.tuples(st.sampled_from(list(OUTPUTS)), st.sampled_from(list(CHANGES)), st.sampled_from("ab")), max_size=4
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, looked_at=st.lists(st.sampled_from(list(JOBS)), min_size=1, max_size=3))
def test_after_any_changes_with_looks_between_them_the_verdicts_are_the_same(
    steps: list[tuple[str, str, str]],
    looked_at: list[str],
    made: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output_view, "SETTLED_S", 0.0)
    root = _copy(made, tmp_path_factory.mktemp("steps") / "root")
    for step in [None, *steps]:
        if step is not None:
            _change(root, *step)
            _wait_for_a_tick(root)
        for name in looked_at:
            job = _job(root, **JOBS[name])
            assert _together(job) == _alone(job)
    shutil.rmtree(root)


def test_the_table_above_knows_every_condition(root: Path) -> None:
    seen = {status.condition for options in JOBS.values() for status in _together(_job(root, **options)).values()}
    for output, change, slide in (("coords", "removed", "b"), ("features", "removed", "b"), ("tissue", "edited", "a")):
        _change(root, output, change, slide)
        for options in JOBS.values():
            seen |= {status.condition for status in _together(_job(root, **options)).values()}
    assert seen == set(Condition)


def test_what_is_in_the_index_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(root)
    expected = _together(job)
    assert {status.condition for status in expected.values()} == {Condition.DONE}
    (root / "job" / OUTPUTS["features"].format("b")).touch()
    read: list[Path] = []

    def noted(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def note(stage: Any) -> Any:
            read.append(stage.output)
            return method(stage)

        monkeypatch.setattr(kind, name, note)

    for kind in (H5Stage, SegmentationStage):
        noted(kind, "read_recipe")
    assert _together(job) == expected
    assert read == [root / "job" / OUTPUTS["features"].format("b")]
    _wait_for_a_tick(root)
    read.clear()
    assert _together(job) == expected
    assert read == []


def test_an_index_of_other_files_is_not_believed(root: Path, made: Path, tmp_path: Path) -> None:
    _together(_job(root))
    other = _copy(made, tmp_path / "other")
    shutil.copytree(root / "job/.trident", other / "job/.trident", dirs_exist_ok=True)
    for slide in "ab":
        _edit_outline(other / "job" / OUTPUTS["tissue"].format(slide))
    assert _together(_job(other)) == _alone(_job(other)) != _alone(_job(root))


@pytest.mark.parametrize("together", [1, 2, 2000])
def test_slides_are_looked_at_in_parts(together: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "_TOGETHER", together)
    job = _job(root)
    survey = Survey(JobStages(job))
    for slides in (["a"], ["b", "a"], []):
        assert list(survey.statuses(slides)) == [(slide, key) for slide in slides for key in job.stages]


def test_a_stage_without_a_record_is_found(root: Path) -> None:
    job = _job(root)
    done = [(slide, key) for slide in "ab" for key in job.stages]

    def unrecorded() -> list[tuple[str, str]]:
        survey = Survey(JobStages(job))
        found = [(stage.source.name, stage.key) for stage in survey.unrecorded(done)]
        survey.keep()
        return found

    assert unrecorded() == unrecorded() == done  # state files are named by the path of the slide, which is another one
    for stage in Survey(JobStages(job)).unrecorded(done):
        record_result(stage, StageResult("was there", skipped=True))
    assert unrecorded() == unrecorded() == []
    _wait_for_a_tick(root)
    state = state_of(JobStages(job).all_of("b")[0])
    content = json.loads(state.path.read_text())
    del content["tasks"]["coords"]
    content["tasks"]["segmentation"]["status"] = "error"
    state.path.write_text(json.dumps(content))
    assert unrecorded() == unrecorded() == [("b", "segmentation"), ("b", "coords")]
    state.path.unlink()
    assert unrecorded() == [("b", key) for key in job.stages]
    state.path.write_text("{")  # whoever records something in it puts it aside
    assert unrecorded() == [("b", key) for key in job.stages]
