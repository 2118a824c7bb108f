"""Command-line options made from `trident.settings`, the same for every command that has them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from trident import exit_codes
from trident.settings import (
    ENVIRONMENT_PREFIX,
    Settings,
    is_flag,
    is_list,
    luigi_config_paths,
    option_choices,
    option_group,
)

_GROUPS = {
    "slides": "slides and outputs",
    "run": "what to run",
    "devices": "devices and memory",
    "tissue": "tissue segmentation",
    "patches": "patches",
    "encoders": "encoders",
    "graph": "task graph",
}


class HelpFormatter(argparse.HelpFormatter):
    """Keeps names such as `kaiko-vits8` whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        return textwrap.wrap(text, width, break_on_hyphens=False)


class OptionParser(argparse.ArgumentParser):
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


def option_parser(
    program: str, description: str | None, names: Collection[str], required: Collection[str]
) -> OptionParser:
    """A parser with these options of the settings, grouped; what is not given is left out of the result."""
    parser = OptionParser(prog=program, description=description, allow_abbrev=False, formatter_class=HelpFormatter)
    groups = {key: parser.add_argument_group(title) for key, title in _GROUPS.items()}
    for name, field in Settings.model_fields.items():
        if name in names:
            keywords = _keywords(name, field)
            if name in required:
                keywords["required"] = not _from_elsewhere(name)
            groups[option_group(field)].add_argument(f"--{name}", **keywords)
    return parser


def _keywords(name: str, field: FieldInfo) -> dict[str, Any]:
    keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help_text(field)}
    if is_flag(field):
        return {**keywords, "action": "store_true"}
    choices = option_choices(field)
    keywords["metavar"] = "{" + ",".join(choices) + "}" if choices and len(choices) < 10 else name.upper()
    if is_list(field):
        keywords["nargs"] = "+"
    return keywords


def _from_elsewhere(name: str) -> bool:
    """Whether the environment or `luigi.cfg` may give a required option: then the settings decide."""
    return f"{ENVIRONMENT_PREFIX}{name.upper()}" in os.environ or bool(luigi_config_paths())


def _help_text(field: FieldInfo) -> str:
    text = str(field.description)
    choices = option_choices(field)
    if choices and len(choices) >= 10:
        text += f" One of: {', '.join(choices)}."
    if not is_flag(field) and field.default is not None and not field.is_required():
        text += f" Default: {field.default}."
    return text.replace("%", "%%")
