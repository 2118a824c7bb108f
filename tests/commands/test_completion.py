"""`trident completion`: bash and zsh really complete with what it prints."""

from __future__ import annotations

import os
import pty
import re
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
needs_zsh = pytest.mark.skipif(not ZSH, reason="zsh is not installed")

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
    (folder / "functions").mkdir()
    (folder / "functions" / "_trident").symlink_to(folder / "zsh")  # the name under which zsh looks for it
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
            *(), cwd=folder, capture_output=True, text=True, check=False, timeout=600,
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


# Of each shell: how it is started without anybody's settings, and how it is told about the script of `scripts`.
_TERMINALS = {
    "bash": ([BASH, "--norc", "--noprofile", "-i"], "source {folder}/bash"),
    "zsh": ([ZSH, "-f", "-i"], "fpath=({folder}/functions $fpath); autoload -Uz compinit; compinit -u -D"),
}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("enc\t--ki\tsl\t", "encoders --kind slide"),
        ("batch --patch_encoder musk\t--segmenter gr\t", "batch --patch_encoder musk --segmenter grandqc"),
        ("weights fet\t--to sli\t", "weights fetch --to slides"),
        ("info a.s\t", "info a.svs"),
    ],
)
@pytest.mark.parametrize("shell", [pytest.param("bash", marks=needs_bash), pytest.param("zsh", marks=needs_zsh)])
def test_a_tab_in_a_terminal_completes(
    shell: str, typed: str, said: str, scripts: dict[str, Path], tmp_path: Path
) -> None:
    """An interactive shell on a terminal of its own: what is typed, tabs, and what then stands on the line."""
    (tmp_path / "slides").mkdir()
    (tmp_path / "a.svs").touch()
    command, load = _TERMINALS[shell]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(command[0], command, {"TERM": "dumb", "PS1": "> ", "PATH": os.environ["PATH"], "HOME": str(tmp_path)})

    def answer(line: str, ending: str) -> str:
        """Type a line, and wait until the terminal shows something: what matched, less spaces at the end."""
        os.write(terminal, line.encode() + b"\n")
        shown, deadline = b"", time.monotonic() + 600
        while not (found := re.search(ending.encode() + rb" *\r?\n", shown)):
            assert time.monotonic() < deadline, shown.decode(errors="replace")
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 4096)
        return found[1].decode()

    try:
        answer(
            load.format(folder=scripts[shell].parent) + "; trident() { echo r''an \"$@\"; }; echo rea''dy", "(ready)"
        )
        assert answer(f"trident {typed}", r"ran ([^\r\n]*?)/?") == said  # zsh takes its slash back
    finally:
        os.write(terminal, b"exit\n")
        os.close(terminal)
        os.waitpid(child, 0)


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
