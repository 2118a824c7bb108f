"""The command line: what it accepts, how it refuses, and how fast it answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident import exit_codes
from trident.cli import batch, main, single
from trident.errors import StoreError
from trident.settings import Settings, option_choices

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "cucim",
    "cv2",
    "h5py",
    "shapely",
    "pandas",
    "skimage",
    "luigi",
)


@pytest.fixture
def given(quiet_process: None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Settings that reached the task graph, which is not started."""
    import luigi_tasks.start

    seen: list[Any] = []

    def remember(settings: Any) -> int:
        seen.append(settings)
        return exit_codes.OK

    monkeypatch.setattr(luigi_tasks.start, "run_settings", remember)
    return seen


def _help_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_help_and_version_import_nothing_heavy() -> None:
    program = """
import contextlib, io, sys
from trident.cli import main
for arguments in (["--help"], ["--version"], ["batch", "--help"], ["single", "--help"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        main(arguments)
    if arguments == ["--help"]:
        assert "pydantic" not in sys.modules, "the list of commands needs no options"
    print(len(shown.getvalue()) > 10, *sorted(set(sys.argv[1:]) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4


def test_help_lists_every_documented_flag_with_its_choices(
    shared_reference: Path, clean_settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _help_of(["batch"], capsys)
    usage = (shared_reference / "quickstart.txt").read_text(encoding="utf-8").partition("usage: ")[2]
    for name, metavar in re.findall(r"--(\w+)(?:\s+(\{[^}]*\}|[A-Z_]+))?", usage.partition("Run Trident")[0]):
        assert f"--{name} " in text
        for choice in metavar.strip("{}").split(",") if metavar.startswith("{") else ():
            assert re.search(rf"[{{, ]{re.escape(choice)}[}},. ]", text), f"--{name} {choice}"


def test_help_lists_every_option_but_those_of_the_other_command(
    clean_settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for_batch, for_single = _help_of(["batch"], capsys), _help_of(["single"], capsys)
    for name in Settings.model_fields:
        assert (f"--{name} " in for_batch) == (name != "slide_path"), name
    for name in (
        *("slide_path", "job_dir", "gpu", "patch_encoder", "mag", "patch_size", "segmenter", "seg_conf_thresh"),
        *("remove_holes", "remove_artifacts", "remove_penmarks", "custom_mpp_keys", "overlap", "batch_size"),
        "patch_encoder_img_size",
    ):
        assert f"--{name} " in for_single, name
    assert "--wsi_dir" not in for_single


@pytest.mark.parametrize("dashes", [["--"], []])
@pytest.mark.parametrize(("command", "where"), [("batch", ["--wsi_dir", "w"]), ("single", ["--slide_path", "w/s.svs"])])
def test_both_spellings_of_the_unified_command_reach_the_graph(
    given: list[Any], dashes: list[str], command: str, where: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, *dashes, *where, "--job_dir", "out", "--mag", "1.25", "--gpus", "-1", "-1"])
    assert end.value.code == 0
    (settings,) = given
    assert settings.model_fields_set >= {"job_dir", "mag", "gpus"}
    assert (settings.job_dir, settings.mag, settings.gpus) == (Path("out"), 1.25, (-1, -1))
    assert settings.task == ("all" if command == "single" else "seg")


def test_documented_examples_are_accepted(given: list[Any], shared_reference: Path) -> None:
    text = (shared_reference / "quickstart.txt").read_text(encoding="utf-8").replace("\\\n", " ").replace(" \\ ", " ")
    programs = {"run_batch_of_slides.py": batch, "run_single_slide.py": single}
    examples = re.findall(r"python (run_\w+\.py) ([^\n]*)", text)
    for program, arguments in examples:
        words = arguments.replace("...", "").split()
        assert programs[program](words) == 0, arguments
        shown = [word.removeprefix("--") for word in words if word.startswith("--")]
        assert set(shown) <= given[-1].model_fields_set
    assert len(examples) >= 9


def test_every_choice_of_every_option_is_parsed(given: list[Any]) -> None:
    for name, field in Settings.model_fields.items():
        for choice in option_choices(field) or ():
            assert batch(["--wsi_dir", "w", "--job_dir", "out", f"--{name}", choice]) == 0
            assert getattr(given[-1], name) in (choice, (choice,))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--patch_enc", "uni_v1"], "did you mean --patch_encoder?"),
        (["--wsi-dir", "w"], "did you mean --wsi_dir?"),
        (["--mag", "fast"], "--mag fast: "),
        (["--mag"], "--mag: expected one argument"),
        (["--gpus"], "--gpus: expected at least one argument"),
        (["--segmenter", "ots"], "did you mean 'otsu'?"),
        (["--task", "img"], "--task img: "),
        (["--skip_errors=maybe"], "--skip_errors"),
        (["--slide_path", "s.svs"], "unrecognized arguments: --slide_path s.svs"),
        (["stray"], "unrecognized arguments: stray"),
        (["--overlap", "600"], "--overlap 600 must be smaller than --patch_size 512"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    run_batch: Callable[..., Any], tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = run_batch("--wsi_dir", tmp_path, "--job_dir", tmp_path / "job", *arguments)
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert done.out == ""
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--patch_encoder", "virchow3"], "did you mean 'virchow"),
        (["--slide_encoder", "threads", "--patch_encoder", "conch_v15"], "not available"),
    ],
)
def test_what_a_later_version_may_have_is_answered_in_one_line_before_anything_is_touched(
    run_batch: Callable[..., Any], tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = run_batch(
        *("--task", "all", "--wsi_dir", tmp_path / "none", "--job_dir", tmp_path / "job", "--segmenter", "otsu"),
        *arguments,
    )
    assert (done.code, done.err.count("\n")) == (exit_codes.USAGE, 1)
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "--job_dir, --wsi_dir"), (["--wsi_dir", "w"], "--job_dir"), (["--job_dir", "o"], "--wsi_dir")],
)
def test_required_options_are_named(run_batch: Callable[..., Any], arguments: list[str], says: str) -> None:
    done = run_batch(*arguments)
    assert done.code == exit_codes.USAGE
    assert f"required: {says}" in done.err


def test_required_options_may_come_from_elsewhere(
    given: list[Any], clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIDENT_JOB_DIR", "out")
    (clean_settings / "luigi.cfg").write_text("[trident]\nwsi_dir = w\n")
    assert batch([]) == 0
    assert (given[0].job_dir, given[0].wsi_dir) == (Path("out"), Path("w"))


def test_one_command_is_not_disturbed_by_the_other_ones_settings(
    given: list[Any], clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean_settings / "luigi.cfg").write_text("[trident]\nwsi_dir = w\ncustom_list_of_wsis = l.csv\ntask = seg\n")
    monkeypatch.setenv("TRIDENT_SLIDE_PATH", "s.svs")
    assert batch(["--job_dir", "o"]) == 0
    assert single(["--job_dir", "o", "--slide_path", "t.svs"]) == 0
    assert (given[0].wsi_dir, given[0].slide_path) == (Path("w"), None)
    alone = given[1]
    assert (alone.wsi_dir, alone.slide_path, alone.custom_list_of_wsis, alone.task) == (
        None,
        Path("t.svs"),
        None,
        "all",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "COMMAND"),
        (["bogus"], 2, "bogus"),
        (["--bogus"], 2, "unknown option --bogus"),
        (["--job_dir=x", "batch"], 2, "unknown option --job_dir; the options of a command follow it"),
        (["-x"], 2, "unknown option -x"),
        (["--version"], 0, "trident 0."),
        (["--help"], 0, "batch"),
    ],
)
def test_the_command_itself(arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == code
    assert says in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "arguments", [["info", "--help"], ["batch", "--help"], ["completion", "zsh"], ["info", "ü.svs"]]
)
@pytest.mark.parametrize("closed", [False, True])
def test_any_stdout_will_do(
    tmp_path: Path, drawn_slides: Callable[..., Path], arguments: list[str], closed: bool
) -> None:
    """One that only knows ASCII, and one that the shell has closed (`>&-`)."""
    drawn_slides(tmp_path, "ü.svs")
    shell = ["sh", "-c", '"$@" >&-', "sh"] if closed else []
    done = subprocess.run(
        [*shell, sys.executable, "-m", "trident.cli", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (exit_codes.OK, False), done.stderr.decode()
    assert closed or rb"\xb5" in done.stdout


@pytest.mark.parametrize("command", [["encoders"], ["completion", "bash"]])
def test_a_full_disk_under_stdout_is_one_line(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trident.cli", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == exit_codes.USAGE
    assert done.stderr == (
        "error: stdout cannot be written: No space left on device; free some space there and run again\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (StoreError("a.h5: broken; mend it"), exit_codes.USAGE, "error: a.h5: broken; mend it\n"),
        (KeyboardInterrupt(), exit_codes.INTERRUPTED, "interrupted\n"),
    ],
)
def test_expected_errors_are_one_line(
    quiet_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    import luigi_tasks.start

    def fail(settings: Any) -> int:
        raise error

    monkeypatch.setattr(luigi_tasks.start, "run_settings", fail)
    assert batch(["--wsi_dir", "w", "--job_dir", "o"]) == code
    assert capsys.readouterr().err == says
    if code == exit_codes.USAGE:
        with pytest.raises(StoreError):
            batch(["--wsi_dir", "w", "--job_dir", "o", "--debug"])


def test_an_unforeseen_error_shows_its_traceback(quiet_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import luigi_tasks.start

    def fail(settings: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(luigi_tasks.start, "run_settings", fail)
    with pytest.raises(ZeroDivisionError):
        batch(["--wsi_dir", "w", "--job_dir", "o"])
