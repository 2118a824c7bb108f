"""The `trident` command, and the functions behind `run_batch_of_slides.py` and `run_single_slide.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import trident
from trident import exit_codes
from trident.errors import TridentError

if TYPE_CHECKING:
    from trident.settings import Settings

_GROUPS = {
    "slides": "slides and outputs",
    "run": "what to run",
    "devices": "devices and memory",
    "tissue": "tissue segmentation",
    "patches": "patches",
    "encoders": "encoders",
    "graph": "task graph",
}

_NOT_IN_BATCH = frozenset({"slide_path"})
_NOT_IN_SINGLE = frozenset({"wsi_dir", "wsi_ext", "search_nested", "custom_list_of_wsis", "skip_errors", "task"})


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `trident`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, tuple[str, Callable[[list[str]], int]]] = {
        "batch": ("process all slides of a directory", batch),
        "single": ("process one slide", single),
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


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps names such as `kaiko-vits8` whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        return textwrap.wrap(text, width, break_on_hyphens=False)


class _OptionParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without forty lines of usage above it. Values are checked by the settings."""

    def error(self, message: str) -> NoReturn:
        """End the process with a line that offers the option that was probably meant."""
        prefix, _, unknown = message.partition("unrecognized arguments: ")
        if not prefix and unknown:
            import difflib

            name = unknown.split()[0].partition("=")[0]
            close = difflib.get_close_matches(name.replace("-", "_"), self._wanted(), n=1)
            message += f" (did you mean {self._wanted()[close[0]]}?)" if close else ""
        self.exit(exit_codes.USAGE, f"error: {message}; `{self.prog} --help` lists the options\n")

    def _wanted(self) -> dict[str, str]:
        options = [option for action in self._actions for option in action.option_strings]
        return {option.replace("-", "_"): option for option in options}


def _run(
    program: str,
    description: str,
    arguments: Sequence[str] | None,
    *,
    left_out: frozenset[str],
    required: set[str],
    fixed: dict[str, Any],
) -> int:
    parser = _option_parser(program, description, left_out, required)
    given = vars(parser.parse_args(arguments))
    return _guarded(given.get("debug", False), lambda: _run_graph({**given, **fixed}))


def _run_graph(values: dict[str, Any]) -> int:
    from importlib import import_module

    from trident import log
    from trident.settings import load_settings

    settings: Settings = load_settings(**values)
    log.configure(debug=settings.debug)
    # By name: the library itself knows nothing of the task graph, only this command starts it.
    return int(import_module("luigi_tasks.start").run_settings(settings))


def _guarded(debug: bool, run: Callable[[], int]) -> int:
    """Turn expected errors into one line on stderr and an exit code."""
    try:
        return run()
    except TridentError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        return exit_codes.USAGE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return exit_codes.INTERRUPTED


def _option_parser(
    program: str, description: str, left_out: frozenset[str], required: set[str]
) -> argparse.ArgumentParser:
    from trident.settings import Settings, is_flag, is_list, option_choices, option_group

    parser = _OptionParser(prog=program, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
    groups = {key: parser.add_argument_group(title) for key, title in _GROUPS.items()}
    for name, field in Settings.model_fields.items():
        if name in left_out:
            continue
        keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help_text(field)}
        choices = option_choices(field)
        if is_flag(field):
            keywords["action"] = "store_true"
        else:
            keywords["metavar"] = "{" + ",".join(choices) + "}" if choices and len(choices) < 10 else name.upper()
            if is_list(field):
                keywords["nargs"] = "+"
            if name in required or (name == "job_dir"):
                keywords["required"] = not _from_elsewhere(name)
        groups[option_group(field)].add_argument(f"--{name}", **keywords)
    return parser


def _from_elsewhere(name: str) -> bool:
    """Whether the environment or `luigi.cfg` may give a required option: then the settings decide."""
    import os

    from trident.settings import ENVIRONMENT_PREFIX, luigi_config_paths

    return f"{ENVIRONMENT_PREFIX}{name.upper()}" in os.environ or bool(luigi_config_paths())


def _help_text(field: Any) -> str:
    from trident.settings import is_flag, option_choices

    text = str(field.description)
    choices = option_choices(field)
    if choices and len(choices) >= 10:
        text += f" One of: {', '.join(choices)}."
    if not is_flag(field) and field.default is not None and not field.is_required():
        text += f" Default: {field.default}."
    return text.replace("%", "%%")


def _not_yet(name: str) -> Callable[[list[str]], int]:
    def refuse(arguments: list[str]) -> int:
        del arguments
        sys.stderr.write(f"error: `trident {name}` is not available in this version\n")
        return exit_codes.USAGE

    return refuse


if __name__ == "__main__":
    main()
