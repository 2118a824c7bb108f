"""The `trident` command, and the functions behind `run_batch_of_slides.py` and `run_single_slide.py`."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import trident
from trident import exit_codes
from trident.errors import TridentError

NOT_IN_BATCH = frozenset({"slide_path"})
NOT_IN_SINGLE = frozenset({"wsi_dir", "wsi_ext", "search_nested", "custom_list_of_wsis", "skip_errors", "task"})

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `trident`."""
    _make_stdout_safe()
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = commands()
    parser = command_parser()
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (text, _) in known.items():
        subparsers.add_parser(name, help=text, add_help=False)
    options = {option for action in parser._actions for option in action.option_strings}
    if given and given[0].startswith("-") and given[0] not in options:
        name = given[0].partition("=")[0]
        parser.error(f"unknown option {name}; the options of a command follow it: `trident COMMAND {name} ...`")
    command = parser.parse_args(given[:1]).command
    rest = given[2:] if given[1:2] == ["--"] else given[1:]
    sys.exit(known[command][1](rest))


def commands() -> dict[str, tuple[str, Callable[[list[str]], int]]]:
    """Each command with what it does in a few words, and the function that runs it and returns the exit code."""
    return {
        "batch": ("process all slides of a directory", batch),
        "single": ("process one slide", single),
        "pool": ("one vector a patient, from the features of slides", _command("pool")),
        "report": ("one HTML file that shows a job directory", _command("report")),
        "view": ("features of a slide, or scores of its patches, as colours over it", _command("view")),
        "similar": ("the patches of a cohort that resemble given ones", _command("similar")),
        "export": ("features and embeddings in other formats", _command("export")),
        "plan": ("what a run would do, how long it takes, and which slides will fail", _command("plan")),
        "explain": ("what was done to a slide, and whether it would run again", _command("explain")),
        "info": ("what is known about a slide, and whether it can be processed", _command("info")),
        "encoders": ("list the encoders and what is declared about them", _command("encoders")),
        "weights": ("list, fetch and check weights", _command("weights")),
        "convert": ("convert slides to pyramidal TIFF", _command("convert")),
        "doctor": ("check this machine's installation", _command("doctor")),
        "completion": ("print what makes bash or zsh complete this command", _command("completion")),
    }


def command_parser() -> argparse.ArgumentParser:
    """The parser of `trident` itself, without its commands."""
    parser = argparse.ArgumentParser(
        prog="trident",
        description="Whole-slide images to tissue, patches, features and slide embeddings.",
        epilog="`trident COMMAND --help` lists the options of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trident {trident.__version__}")
    return parser


def batch(arguments: Sequence[str] | None = None) -> int:
    """`trident batch` and `run_batch_of_slides.py`: every slide of a directory. Returns the exit code."""
    description = "Process all slides of a directory."
    fixed = dict.fromkeys(NOT_IN_BATCH)
    return _run("trident batch", description, arguments, left_out=NOT_IN_BATCH, required={"wsi_dir"}, fixed=fixed)


def single(arguments: Sequence[str] | None = None) -> int:
    """`trident single` and `run_single_slide.py`: all stages for one slide. Returns the exit code."""
    description = "Process one slide, all stages."
    # None wins over the environment and `luigi.cfg`, which may name a directory for the other command.
    fixed = {"task": "all", "wsi_dir": None, "custom_list_of_wsis": None}
    return _run("trident single", description, arguments, left_out=NOT_IN_SINGLE, required={"slide_path"}, fixed=fixed)


def _run(
    program: str,
    description: str,
    arguments: Sequence[str] | None,
    *,
    left_out: frozenset[str],
    required: set[str],
    fixed: dict[str, Any],
) -> int:
    from trident.commands.options import option_parser
    from trident.settings import Settings

    _make_stdout_safe()
    names = Settings.model_fields.keys() - left_out
    parser = option_parser(program, description, names, {"job_dir", *required})
    given = vars(parser.parse_args(arguments))
    return _guarded(given.get("debug", False), lambda: _run_graph({**given, **fixed}))


def _run_graph(values: dict[str, Any]) -> int:
    from trident.settings import configure_log, load_settings

    settings = load_settings(**values)
    configure_log(settings)
    # By name: the library itself knows nothing of the task graph, only this command starts it.
    return int(import_module("luigi_tasks.start").run_settings(settings))


def _make_stdout_safe() -> None:
    """Results reach any stdout: what its encoding lacks (`µ` in ASCII) is escaped, and a closed one takes nothing."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _guarded(debug: bool, run: Callable[[], int]) -> int:
    """Turn expected errors into one line on stderr and an exit code."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except TridentError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        return exit_codes.USAGE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        _drop_stdout()
        return exit_codes.OK
    except OSError as error:
        # A file's own error has a name, or has become a TridentError where it was written: this is stdout's.
        if debug or error.filename is not None or error.errno not in _NO_ROOM:
            raise
        _drop_stdout()
        sys.stderr.write(f"error: stdout cannot be written: {error.strerror}; free some space there and run again\n")
        return exit_codes.USAGE


def _drop_stdout() -> None:
    """Send what is still to be written nowhere, or it would fail once more when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(name: str) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        return _guarded(False, lambda: int(import_module(f"trident.commands.{name}").run(arguments)))

    return run


if __name__ == "__main__":
    main()
