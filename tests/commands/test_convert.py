"""`trident convert`: how its command line is read, and real runs of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident import exit_codes
from trident.commands import convert
from trident.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
needs_libvips = pytest.mark.usefixtures("libvips")


@pytest.fixture
def libvips() -> None:
    pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")


@pytest.fixture
def given(quiet_process: None, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Values that reached the task, which is not started."""
    import luigi_tasks.convert

    seen: list[dict[str, Any]] = []

    def remember(values: dict[str, Any]) -> int:
        seen.append(values)
        return exit_codes.OK

    monkeypatch.setattr(luigi_tasks.convert, "run_convert", remember)
    return seen


def test_what_the_task_is_given(given: list[dict[str, Any]]) -> None:
    assert convert.run(["--input_dir", "in", "--job_dir", "out", "--wsi_ext", ".czi", ".png", "--bigtiff"]) == 0
    arguments = "--input_dir in --mpp_csv a.csv --job_dir out --downscale_by 1 --num_workers 1"
    assert convert.run([*arguments.split(), "--then_process", "--", "--task", "all", "--mag", "20"]) == 0
    assert given == [
        {"input_dir": "in", "job_dir": "out", "wsi_ext": [".czi", ".png"], "bigtiff": True},
        {
            **{"input_dir": "in", "mpp_csv": "a.csv", "job_dir": "out", "downscale_by": "1", "num_workers": "1"},
            "then_process": ("--task", "all", "--mag", "20"),
        },
    ]


def test_options_of_the_batch_need_then_process(given: list[dict[str, Any]]) -> None:
    with pytest.raises(SettingsError, match="add --then_process before `--`"):
        convert.run(["--input_dir", "in", "--job_dir", "out", "--", "--task", "all"])
    assert given == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--job_dir", "out"], "error: the following arguments are required: --input_dir"),
        (["--input_dir", "in", "--job_dir", "out", "--num_worker", "2"], "did you mean --num_workers?"),
    ],
)
def test_misspelt_options(
    arguments: list[str], says: str, given: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        convert.run(arguments)
    assert end.value.code == exit_codes.USAGE
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--wsi_dir", "--custom_list_of_wsis", "--search_nested", "--slide_path"])
def test_options_that_follow_from_the_conversion_are_not_taken(
    option: str, tmp_path: Path, clean_settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        convert.following_settings([option, "x"], tmp_path, tmp_path / "converted.csv")
    assert end.value.code == exit_codes.USAGE
    assert f"unrecognized arguments: {option}" in capsys.readouterr().err


@needs_libvips
def test_a_real_run(tmp_path: Path, drawn_slides: Callable[..., Path], run_program: Callable[..., Any]) -> None:
    inputs = drawn_slides(tmp_path / "wsis", "a.svs", "b.svs")
    (inputs / "c.svs").write_bytes(b"")
    arguments = ["convert", "--input_dir", inputs, "--job_dir", tmp_path / "out", "--num_workers", 2]
    done = run_program("trident", *arguments)
    assert done.code == exit_codes.FINISHED_WITH_FAILURES
    assert "c.svs: the file is empty (0 bytes)" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tiff")) == ["a.tiff", "b.tiff"]
    done = run_program("trident", "convert", "--input_dir", tmp_path / "none", "--job_dir", tmp_path / "out")
    assert (done.code, done.err.count("\n")) == (exit_codes.USAGE, 1)
    assert "does not exist; check --input_dir" in done.err


@needs_libvips
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path,
    drawn_slides: Callable[..., Path],
    held_conversions: tuple[Path, Path],
    start_program: Callable[..., Any],
    finish_program: Callable[..., Any],
    wait_until: Callable[..., None],
) -> None:
    folder, held = held_conversions
    process = start_program(
        *("trident", "convert", "--input_dir", drawn_slides(tmp_path / "wsis", "a.svs"), "--job_dir", tmp_path / "out"),
        env={"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )
    wait_until(lambda: held.stat().st_size, process)

    def begun() -> list[str]:
        return sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(("a.", ".a.")))

    assert [name.rpartition(".")[2] for name in begun()] == ["tiff", "lock"]
    process.send_signal(signal.SIGINT)
    done = finish_program(process)
    assert done.code == exit_codes.INTERRUPTED, done.err
    assert begun() == []
