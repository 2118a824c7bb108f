"""`trident completion`: print what makes a shell complete this command, its options and their values."""

from __future__ import annotations

import argparse
import sys

from trident import exit_codes
from trident.commands.options import OptionParser, parser_of
from trident.settings import Settings, option_choices

SHELLS = ("bash", "zsh")

_FOLDERS = frozenset({"job_dir", "wsi_dir", "input_dir", "wsi_cache", "to"})
_FILES = frozenset({"slide_path", "custom_list_of_wsis", "patch_encoder_ckpt_path", "mpp_csv", "patients"})
_METAVAR_FOLDER = "DIR"
_METAVARS_FILE = ("FILE", "SLIDE")


def run(arguments: list[str]) -> int:
    """Print the script for one shell. Returns the exit code."""
    parser = OptionParser(prog="trident completion", description=__doc__, allow_abbrev=False)
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to read the script")
    given = parser.parse_args(arguments)
    sys.stdout.write(script(given.shell))
    return exit_codes.OK


def script(shell: str) -> str:
    """The completion script of a shell, made from the parsers of all commands."""
    import shtab

    from trident.cli import command_parser, commands

    whole = command_parser()
    subparsers = whole.add_subparsers(dest="command")
    for name, (text, command) in commands().items():
        parser = parser_of(command)
        _add_values(parser)
        # shtab takes a description for each, and quotes in one would end its own.
        subparsers.add_parser(name, help=text, parents=[parser], add_help=False, description=text)
    return str(shtab.complete(whole, shell)).rstrip() + "\n"


def _add_values(parser: argparse.ArgumentParser) -> None:
    """What may follow an option: names that the settings check, files, folders."""
    import shtab

    for action in parser._actions:  # argparse has no public list of them, and shtab reads this one too
        if isinstance(action.choices, dict):  # commands of the command
            for inner in action.choices.values():
                _add_values(inner)
        elif (names := _names(action)) and action.choices is None and action.nargs != 0:
            action.choices = names
        elif action.dest in _FOLDERS or action.metavar == _METAVAR_FOLDER:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest in _FILES or action.metavar in _METAVARS_FILE:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _names(action: argparse.Action) -> tuple[str, ...]:
    """The names that an option takes, where they are a closed list that is checked after parsing."""
    if isinstance(action.metavar, str) and action.metavar.startswith("{"):
        return tuple(action.metavar.strip("{}").split(","))
    field = Settings.model_fields.get(action.dest)
    return () if field is None else option_choices(field) or ()
