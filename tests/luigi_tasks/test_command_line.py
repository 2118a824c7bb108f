"""The `luigi` command: its refusals and exit codes, in real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.exit_codes import FINISHED_WITH_FAILURES, STOPPED, USAGE

Program = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ConvertPyramidalTiff"], USAGE, "error: --input_dir is required; --job_dir is required"),
        (["RunCohort", "--wsi-dir=w", "--job-dir=j", "--mag=fast"], USAGE, "error: --mag fast: "),
        (["RunCohort", "--job-dir=j"], USAGE, "error: give either --wsi_dir"),
        (["RunCohort", "--wsi-dir=/none", "--job-dir=j"], USAGE, "error: /none: the slide folder does not exist"),
        (["SegmentSlide", "--slide-path=/none.svs", "--job-dir=j"], USAGE, "error: /none.svs: no such slide"),
        (["SegmentSlide", "--job=/none.json"], USAGE, "error: /none.json: not a readable job file"),
    ],
)
def test_luigi_refuses_in_one_line(
    arguments: list[str], code: int, says: str, run_program: Program, tmp_path: Path
) -> None:
    done = run_program("luigi", *arguments, "--local-scheduler", cwd=tmp_path)
    assert done.code == code
    assert done.err.startswith(says)
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scheduler", "url"),
    [
        (["--scheduler-url=http://127.0.0.1:1"], "http://127.0.0.1:1"),
        (["--scheduler-host=127.0.0.1", "--scheduler-port=1"], "http://127.0.0.1:1"),  # as where nothing is said
    ],
)
@pytest.mark.parametrize("task", ["RunCohort", "SegmentSlide", "ConvertPyramidalTiff"])
def test_luigi_tells_at_once_that_luigid_is_not_there(
    task: str, scheduler: list[str], url: str, tmp_path: Path, run_program: Program, drawn_slides: Program
) -> None:
    wsis = drawn_slides(tmp_path / "wsis", "a.svs")
    where = {
        "RunCohort": f"--wsi-dir={wsis}",
        "SegmentSlide": f"--slide-path={wsis / 'a.svs'}",
        "ConvertPyramidalTiff": f"--input-dir={wsis}",
    }
    done = run_program("luigi", task, *scheduler, where[task], f"--job-dir={tmp_path / 'job'}")
    assert done.code == USAGE
    assert done.err.startswith(f"error: {url}: luigid does not answer")
    assert "--local-scheduler" in done.err
    assert done.err.count("\n") == 1  # Luigi itself would try for a minute, and show a traceback


@pytest.mark.parametrize(("skip_errors", "code"), [(False, STOPPED), (True, FINISHED_WITH_FAILURES)])
@pytest.mark.parametrize("workers", [1, 2])
def test_exit_codes_of_luigi(
    skip_errors: bool, code: int, workers: int, tmp_path: Path, run_program: Program, drawn_slides: Program
) -> None:
    wsis = drawn_slides(tmp_path / "wsis", "b.svs")
    (wsis / "a.svs").write_bytes(b"")
    config = tmp_path / "lively.cfg"
    config.write_text("[worker]\nping_interval = 0.02\n")  # as often in this short run as usually in a long one
    done = run_program(
        *("luigi", "RunCohort", "--local-scheduler", f"--workers={workers}"),
        *("--task=seg", f"--wsi-dir={wsis}", f"--job-dir={tmp_path / 'job'}", "--segmenter=otsu", "--gpus=-1"),
        *(["--skip-errors"] if skip_errors else []),
        env={"LUIGI_CONFIG_PATH": str(config)},
    )
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert "a.svs: the file is empty" in done.err
    assert (tmp_path / "job/contours_geojson/b.geojson").exists() == skip_errors
