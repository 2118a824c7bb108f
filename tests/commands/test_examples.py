"""The examples at the end of each command's help: they are there, and the command takes them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from trident.cli import commands, main
from trident.commands import convert
from trident.commands.examples import EXAMPLES
from trident.commands.options import parser_of
from trident.settings import load_settings

LINES = [(name, line) for name, lines in EXAMPLES.items() for line in lines]


@pytest.mark.parametrize("name", commands())
def test_every_command_shows_two_or_three(name: str, clean_settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 <= len(EXAMPLES[name]) <= 3
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith("examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name]))


def test_there_are_none_of_unknown_commands() -> None:
    assert EXAMPLES.keys() == commands().keys()


@pytest.mark.parametrize(("name", "line"), LINES, ids=[line for _, line in LINES])
def test_an_example_is_accepted(name: str, line: str, clean_settings: Path) -> None:
    words = shlex.split(line.partition(" > ")[0])
    assert words[:2] == ["trident", name]
    own, following = words[2:], []
    if "--" in own:
        own, following = own[: own.index("--")], own[own.index("--") + 1 :]
    given = vars(parser_of(commands()[name][1]).parse_args(own))
    if name in ("batch", "single"):
        load_settings(**given)
    if following:
        assert name == "convert"
        convert.following_settings(following, Path(given["job_dir"]), Path("converted.csv"))
