"""`trident completion`: bash really completes with what it prints."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trident import exit_codes
from trident.cli import commands
from trident.commands import completion
from trident.settings import Settings

BASH = shutil.which("bash") or ""
ZSH = shutil.which("zsh") or ""
needs_bash = pytest.mark.skipif(not BASH, reason="bash is not installed")

_ASK = """
source "$1"; shift
read -r _ _ function _ < <(complete -p trident | sed 's/.* -F/-F -F/')
COMP_WORDS=(trident "$@"); COMP_CWORD=$#
"$function" && printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The script of each shell as a file."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell), encoding="utf-8")
    return {shell: folder / shell for shell in completion.SHELLS}


@pytest.fixture(scope="module")
def offered(scripts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., set[str]]:
    """Function (*words): what bash offers for the last of them, in a folder with `slides/` and `a.svs`."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "slides").mkdir()
    (folder / "a.svs").touch()

    def ask(*words: str) -> set[str]:
        done = subprocess.run(
            [BASH, "--norc", "-c", _ASK, "bash", str(scripts["bash"]), *words],
            *(), cwd=folder, capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        assert done.stderr == ""
        return {line.strip() for line in done.stdout.splitlines() if line.strip()}

    return ask


@needs_bash
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["enc"], {"encoders"}),
        (["encoders", "--f"], {"--format"}),
        (["encoders", "--format", ""], {"table", "json", "markdown"}),
        (["batch", "--segmenter", ""], {"hest", "grandqc", "otsu"}),
        (["batch", "--patch_encoder", "uni_"], {"uni_v1", "uni_v2"}),
        (["batch", "--patch_encoder", "uni_v1", "uni_"], {"uni_v1", "uni_v2"}),
        (["batch", "--skip_errors", "--task", "co"], {"coords"}),
        (["single", "--task"], set()),
        (["batch", "--wsi_dir", ""], {"slides"}),
        (["single", "--slide_path", ""], {"slides", "a.svs"}),
        (["info", "a"], {"a.svs"}),
        (["weights", "f"], {"fetch"}),
        (["weights", "fetch", "--t"], {"--to"}),
        (["weights", "fetch", "--to", ""], {"slides"}),
        (["doctor", "--profile", "patch"], {"patch-encoders"}),
        (["convert", "--input_dir", "s"], {"slides"}),
        (["completion", ""], {"bash", "zsh"}),
        (["export", "--format", "p"], {"pt", "parquet"}),
        (["export", "--output", ""], {"slides"}),
        (["report", "slides", "--output", ""], {"slides", "a.svs"}),
        (["bogus", "--s"], set()),
    ],
)
def test_bash_offers(offered: Callable[..., set[str]], words: list[str], expected: set[str]) -> None:
    found = offered(*words)
    assert {word for word in found if not word.startswith("-")} == expected or found == expected


@needs_bash
def test_bash_offers_every_command_and_every_option(offered: Callable[..., set[str]]) -> None:
    assert offered("") >= commands().keys()
    options = {f"--{name}" for name in Settings.model_fields}
    assert {option for option in options if option not in offered("batch", "--")} == {"--slide_path"}


@needs_bash
def test_a_tab_in_a_terminal_completes(scripts: dict[str, Path], tmp_path: Path) -> None:
    """An interactive bash on a terminal of its own: what is typed, tab, and what then stands on the line."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(
            BASH, [BASH, "--norc", "--noprofile", "-i"], {"TERM": "dumb", "PS1": "> ", "PATH": os.environ["PATH"]}
        )
    try:
        os.write(terminal, f'source {scripts["bash"]}; trident() {{ echo ran "$@"; }}\n'.encode())
        os.write(terminal, b"trident enc\t--ki\tsl\t\n")
        shown, deadline = b"", time.monotonic() + 20
        while b"ran " not in shown.replace(b"echo ran", b"") and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 4096)
        assert b"ran encoders --kind slide" in shown, shown.decode(errors="replace")
    finally:
        os.write(terminal, b"exit\n")
        os.close(terminal)
        os.waitpid(child, 0)


@pytest.mark.skipif(not ZSH, reason="zsh is not installed")
def test_zsh_takes_the_script(scripts: dict[str, Path]) -> None:
    done = subprocess.run([ZSH, "-n", str(scripts["zsh"])], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_zsh_script_names_every_command_and_option(scripts: dict[str, Path]) -> None:
    text = scripts["zsh"].read_text(encoding="utf-8")
    assert text.startswith("#compdef trident\n")
    for name in commands():
        assert f"{name}:" in text, name
    for name in Settings.model_fields:
        assert f"--{name}[" in text, name


@pytest.mark.parametrize(("arguments", "says"), [([], "shell"), (["fish"], "fish"), (["bash", "zsh"], "zsh")])
def test_wrong_use_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        completion.run(arguments)
    assert end.value.code == exit_codes.USAGE
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert says in shown.err


def test_the_script_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.run(["bash"]) == exit_codes.OK
    assert "-F _shtab_trident trident\n" in capsys.readouterr().out
