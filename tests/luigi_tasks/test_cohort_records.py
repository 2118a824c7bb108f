"""Runs over a folder of slides: what is written down about them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luigi_tasks import cohort
from trident.exit_codes import OK, STOPPED, USAGE

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "_POLL_S", 0.01)


def test_secrets_and_unset_options_are_not_in_the_manifest(run: Run, wsis: Path, job: Any) -> None:
    assert run("seg").code == OK
    (manifest,) = job.manifests()
    assert manifest["args"] == {
        "task": "seg",
        "wsi_dir": str(wsis),
        "job_dir": str(job.path),
        "segmenter": "otsu",
        "mag": 20.0,
        "patch_size": 128,
        "gpus": [-1],
        "patch_encoder": ["stain-stats"],
        "slide_encoder": "mean-stain-stats",
        "executor": "in-process",
    }
    assert (manifest["job_dir"], manifest["pid"]) == (str(job.path), os.getpid())


def test_debug_shows_luigis_own_log(run: Run, wsis: Path, job: Any) -> None:
    assert "Worker" not in run("seg").err
    assert run("seg", "--overwrite", "--debug").code == OK


def test_a_run_that_cannot_write_its_states_fails_and_says_so(run: Run, wsis: Path, job: Any) -> None:
    job.path.mkdir()
    (job.path / "wsi_states").write_text("a file where a folder is needed")
    done = run("seg")
    assert done.code in (STOPPED, USAGE)
    assert str(job.path / "wsi_states") in done.err
    assert "Traceback" not in done.err


def test_a_damaged_state_file_is_put_aside_and_costs_no_slide(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    (state,) = (job.path / "wsi_states").glob("a__*.json")
    state.write_bytes(state.read_bytes()[:100])
    job.embedding("b").unlink()
    done = run("all", "--skip_errors")
    assert done.code == OK, done.err
    assert job.embedding("b").is_file()
    assert set(job.statuses("a").values()) == {"skipped"}
    assert state.with_name(state.name + ".damaged").exists()


def test_a_slide_that_changes_after_its_run_is_done_anew(
    run: Run, wsis: Path, job: Any, drawn_slides: Callable[..., Path]
) -> None:
    assert run("all").code == OK
    before = {slide: job.stamps(slide) for slide in "ab"}
    drawn_slides(wsis, "z.svs")
    (wsis / "z.svs").replace(wsis / "a.svs")
    done = run("all")
    assert done.code == OK, done.err
    assert all(new != old for new, old in zip(job.stamps("a"), before["a"], strict=True))
    assert job.stamps("b") == before["b"]
