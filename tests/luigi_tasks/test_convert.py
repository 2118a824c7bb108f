"""ConvertPyramidalTiff: its parameters, its exit codes, and what it hands to RunCohort."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luigi_tasks import ConvertPyramidalTiff
from luigi_tasks import convert as convert_module
from luigi_tasks.convert import run_convert
from trident import exit_codes
from trident.convert.options import ConvertOptions
from trident.convert.pyramid import read_recipe
from trident.errors import DiscoveryError, SettingsError
from trident.settings import Settings

pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")
pytestmark = pytest.mark.usefixtures("quiet_process")


@pytest.fixture
def values(tmp_path: Path, drawn_slides: Callable[..., Path]) -> dict[str, Any]:
    return {"input_dir": str(drawn_slides(tmp_path / "wsis", "a.svs")), "job_dir": str(tmp_path / "tiffs")}


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings that reached RunCohort, which is not started."""
    seen: list[Settings] = []

    def remember(settings: Settings) -> int:
        seen.append(settings)
        return exit_codes.OK

    monkeypatch.setattr(convert_module, "run_settings", remember)
    return seen


def _manifests(job_dir: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in Path(job_dir, "runs").glob("*.json")]


def test_every_option_is_a_parameter() -> None:
    names = {name for name, _ in ConvertPyramidalTiff.get_params()}
    assert names == {*ConvertOptions.model_fields, "then_process", "run_id"}


def test_a_run_then_nothing_to_do_then_other_settings(values: dict[str, Any]) -> None:
    output = Path(values["job_dir"], "a.tiff")
    assert run_convert(values) == exit_codes.OK
    made = output.stat().st_mtime_ns
    assert run_convert(values) == exit_codes.OK
    assert run_convert({**values, "quality": "60"}) == exit_codes.FINISHED_WITH_FAILURES
    assert output.stat().st_mtime_ns == made
    assert "quality: 85 -> 60" in Path(values["job_dir"], "convert_summary.csv").read_text()
    assert run_convert({**values, "quality": "60", "overwrite": True}) == exit_codes.OK
    recipe = read_recipe(output)
    assert recipe is not None
    assert recipe.settings["quality"] == 60
    manifests = _manifests(values["job_dir"])
    assert sorted(manifest["status"] for manifest in manifests) == ["completed", "completed", "completed", "error"]


def test_a_task_runs_once(values: dict[str, Any]) -> None:
    task = ConvertPyramidalTiff(**values, run_id="1")
    assert not task.complete()
    task.run()
    assert task.complete()
    assert task.exit_code == exit_codes.OK


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"input_dir": "/none"}, DiscoveryError, "/none: the slide folder does not exist; check --input_dir"),
        ({"job_dir": None}, SettingsError, "--job_dir is required"),
        ({"quality": "fine"}, SettingsError, "--quality fine"),
        ({"then_process": "--mag fast"}, SettingsError, "--mag fast"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    values: dict[str, Any], changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        run_convert({**values, **changes})
    assert says in str(caught.value)
    assert not Path(values["job_dir"]).exists()


def test_the_good_ones_are_processed(values: dict[str, Any], processed: list[Settings]) -> None:
    Path(values["input_dir"], "b.svs").write_text("text")
    code = run_convert({**values, "then_process": "--task all --mag 10 --gpus -1"})
    assert code == exit_codes.FINISHED_WITH_FAILURES  # b.svs, though the rest went well
    (settings,) = processed
    assert (settings.task, settings.mag) == ("all", 10)
    assert settings.wsi_dir == settings.job_dir == Path(values["job_dir"])
    assert settings.custom_list_of_wsis is not None
    assert settings.custom_list_of_wsis.read_text() == "wsi\na.tiff\n"


def test_nothing_is_processed_where_nothing_was_converted(values: dict[str, Any], processed: list[Settings]) -> None:
    Path(values["input_dir"], "a.svs").write_text("text")
    assert run_convert({**values, "then_process": ("--task", "seg")}) == exit_codes.FINISHED_WITH_FAILURES
    assert processed == []


def test_dead_locks_are_cleared_when_asked(values: dict[str, Any]) -> None:
    lock = Path(values["job_dir"], "a.tiff.lock")
    lock.parent.mkdir()
    lock.write_text('{"pid": 1, "hostname": "elsewhere", "created_at": "2020-01-01T00:00:00+00:00"}')
    assert run_convert(values) == exit_codes.FINISHED_WITH_FAILURES
    assert run_convert({**values, "clear_dead_locks": True}) == exit_codes.OK
    assert not lock.exists()


def test_the_exit_code_through_luigi_where_it_forks(values: dict[str, Any], run_program: Callable[..., Any]) -> None:
    Path(values["input_dir"], "b.svs").write_text("text")
    done = run_program(
        *("luigi", "ConvertPyramidalTiff", "--local-scheduler", "--workers=2"),
        *(f"--input-dir={values['input_dir']}", f"--job-dir={values['job_dir']}"),
    )
    assert done.code == exit_codes.FINISHED_WITH_FAILURES, done.err


def test_through_luigi_and_on_to_the_features(
    values: dict[str, Any], run_program: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_program(
        *("luigi", "ConvertPyramidalTiff", "--local-scheduler"),
        *(f"--input-dir={values['input_dir']}", f"--job-dir={values['job_dir']}", "--bigtiff"),
        "--then-process=--task all --segmenter otsu --gpus -1 --patch_encoder stain-stats "
        f"--job_dir {tmp_path / 'job'}",
    )
    assert done.code == exit_codes.OK, done.err
    assert Path(values["job_dir"], "a.tiff").read_bytes()[:4] == b"II\x2b\0"
    assert len(list((tmp_path / "job").rglob("features_stain-stats/a.h5"))) == 1
