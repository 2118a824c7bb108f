"""The `trident` command, and the functions behind `run_batch_of_slides.py` and `run_single_slide.py`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import trident
from trident import exit_codes
from trident.errors import TridentError

_NOT_IN_BATCH = frozenset({"slide_path"})
_NOT_IN_SINGLE = frozenset({"wsi_dir", "wsi_ext", "search_nested", "custom_list_of_wsis", "skip_errors", "task"})


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `trident`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, tuple[str, Callable[[list[str]], int]]] = {
        "batch": ("process all slides of a directory", batch),
        "single": ("process one slide", single),
        "pool": ("one vector a patient, from the features of slides", _command("pool")),
        "encoders": ("list the encoders and what is declared about them", _command("encoders")),
        "weights": ("list, fetch and check weights", _command("weights")),
        "convert": ("convert slides to pyramidal TIFF", _not_yet("convert")),
        "doctor": ("check this machine's installation", _not_yet("doctor")),
    }
    parser = argparse.ArgumentParser(
        prog="trident",
        description="Whole-slide images to tissue, patches, features and slide embeddings.",
        epilog="`trident COMMAND --help` lists the options of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trident {trident.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (text, _) in commands.items():
        subparsers.add_parser(name, help=text, add_help=False)
    command = parser.parse_args(given[:1]).command
    rest = given[2:] if given[1:2] == ["--"] else given[1:]
    sys.exit(commands[command][1](rest))


def batch(arguments: Sequence[str] | None = None) -> int:
    """`trident batch` and `run_batch_of_slides.py`: every slide of a directory. Returns the exit code."""
    description = "Process all slides of a directory."
    fixed = dict.fromkeys(_NOT_IN_BATCH)
    return _run("trident batch", description, arguments, left_out=_NOT_IN_BATCH, required={"wsi_dir"}, fixed=fixed)


def single(arguments: Sequence[str] | None = None) -> int:
    """`trident single` and `run_single_slide.py`: all stages for one slide. Returns the exit code."""
    description = "Process one slide, all stages."
    # None wins over the environment and `luigi.cfg`, which may name a directory for the other command.
    fixed = {"task": "all", "wsi_dir": None, "custom_list_of_wsis": None}
    return _run("trident single", description, arguments, left_out=_NOT_IN_SINGLE, required={"slide_path"}, fixed=fixed)


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

    names = Settings.model_fields.keys() - left_out
    parser = option_parser(program, description, names, {"job_dir", *required})
    given = vars(parser.parse_args(arguments))
    return _guarded(given.get("debug", False), lambda: _run_graph({**given, **fixed}))


def _run_graph(values: dict[str, Any]) -> int:
    from trident import log
    from trident.settings import load_settings

    settings = load_settings(**values)
    log.configure(debug=settings.debug)
    # By name: the library itself knows nothing of the task graph, only this command starts it.
    return int(import_module("luigi_tasks.start").run_settings(settings))


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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK


def _command(name: str) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        return _guarded(False, lambda: int(import_module(f"trident.commands.{name}").run(arguments)))

    return run


def _not_yet(name: str) -> Callable[[list[str]], int]:
    def refuse(arguments: list[str]) -> int:
        del arguments
        sys.stderr.write(f"error: `trident {name}` is not available in this version\n")
        return exit_codes.USAGE

    return refuse


if __name__ == "__main__":
    main()
