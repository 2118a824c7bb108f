"""Pooling through the command and through Luigi: exit codes, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luigi_tasks.start import run_pool
from trident.errors import SettingsError
from trident.exit_codes import FINISHED_WITH_FAILURES, OK, STOPPED
from trident.store import h5
from trident.store.layout import JobLayout, grid_name

ENCODER = "mean-stain-stats"


@pytest.fixture
def job(tmp_path: Path, clean_settings: Path, quiet_process: Any) -> Callable[..., dict[str, Any]]:
    """Two slides with embeddings of ones and threes; makes the options of a run over a list of patients."""
    layout = JobLayout(tmp_path / "job", grid_name(20, 256, 0))
    for name, value in (("a", 1.0), ("b", 3.0)):
        h5.write_slide_features(
            layout.slide_features(name, ENCODER),
            np.full(4, value, np.float32),
            np.zeros((1, 2), np.int64),
            {"patch_size_level0": 256},
            name=name,
            savetodir="",
            encoder=ENCODER,
            recipe=None,
        )

    def options(rows: str, **more: Any) -> dict[str, Any]:
        (tmp_path / "patients.csv").write_text(f"patient,wsi\n{rows}")
        fixed = {"job_dir": str(tmp_path / "job"), "patients": str(tmp_path / "patients.csv"), "gpus": ["-1"]}
        return {**fixed, "slide_encoder": ENCODER, "patch_size": "256", "pooling": "mean", **more}

    return options


def _vector(options: dict[str, Any], patient: str) -> Any:
    layout = JobLayout(Path(options["job_dir"]), grid_name(20, 256, 0))
    return h5.read_slide_features(layout.patient_features(patient, ENCODER)).features


def test_mean_of_two_slides_then_nothing_to_do(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options = job("p,a.svs\np,b.svs\n")
    assert run_pool(options) == OK
    np.testing.assert_array_equal(_vector(options, "p"), np.full(4, 2.0))
    assert run_pool(job("p,a.svs\np,b.svs\n")) == OK
    assert run_pool(job("p,a.svs\n")) == OK  # the list has changed
    np.testing.assert_array_equal(_vector(options, "p"), np.full(4, 1.0))


def test_the_job_directory_is_found_however_it_is_written(job: Any, tmp_path: Path) -> None:
    options = job("p,a.svs\n", job_dir=str(tmp_path / "x" / ".." / "job"))
    assert run_pool(options) == OK
    np.testing.assert_array_equal(_vector(job(""), "p"), np.full(4, 1.0))


def test_one_bad_patient_costs_no_other_when_asked_so(job: Any) -> None:
    rows = "bad,nowhere.svs\ngood,a.svs\n"
    assert run_pool(job(rows)) == STOPPED
    with pytest.raises(Exception, match="good"):
        _vector(job(rows), "good")
    assert run_pool(job(rows, skip_errors=True)) == FINISHED_WITH_FAILURES
    np.testing.assert_array_equal(_vector(job(rows), "good"), np.ones(4))


@pytest.mark.parametrize(("more", "code"), [((), STOPPED), (("--skip-errors",), FINISHED_WITH_FAILURES)])
def test_the_exit_code_through_luigi_where_it_forks(
    more: tuple[str, ...], code: int, job: Any, run_program: Callable[..., Any]
) -> None:
    options = job("bad,nowhere.svs\ngood,a.svs\n")
    options["gpus"] = "-1"
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = run_program("luigi", "PoolPatients", "--local-scheduler", "--workers=2", *given, *more)
    assert done.code == code, done.err


def test_skip_errors_may_come_from_the_environment(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIDENT_SKIP_ERRORS", "1")
    assert run_pool(job("bad,nowhere.svs\ngood,b.svs\n")) == FINISHED_WITH_FAILURES


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"pooling": "median"}, "--pooling median: choose one of mean, early"),
        ({"slide_encoder": "mean-uni"}, "did you mean 'mean-uni_v"),
    ],
)
def test_wrong_options_are_one_line(job: Any, more: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        run_pool(job("p,a.svs\n", **more))
