"""Command-line options made from `trident.settings`, the same for every command that has them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection
from contextvars import ContextVar
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from trident import exit_codes
from trident.commands.examples import examples_of
from trident.settings import (
    ENVIRONMENT_PREFIX,
    Settings,
    is_flag,
    is_list,
    luigi_config_paths,
    option_choices,
    option_group,
)

GROUP_TITLES = {
    "slides": "slides and outputs",
    "run": "what to run",
    "devices": "devices and memory",
    "tissue": "tissue segmentation",
    "patches": "patches",
    "encoders": "encoders",
    "graph": "task graph",
    "log": "what is said",
}


class HelpFormatter(argparse.HelpFormatter):
    """Keeps names such as `kaiko-vits8` whole, and examples one a line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        words, _, examples = text.partition("examples:\n")
        filled = super()._fill_text(words, width, indent) if words.strip() else ""
        return "\n\n".join(part for part in (filled, examples and f"examples:\n{examples}") if part)

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        return textwrap.wrap(text, width, break_on_hyphens=False)


class ParserBuilt(Exception):  # noqa: N818 - an answer, not an error
    """Carries a command's parser to whoever asked for it with `parser_of`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


_asked_for_parser: ContextVar[bool] = ContextVar("asked_for_parser", default=False)


class OptionParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without forty lines of usage above it. Values are checked by the settings.

    The help of a command ends with its examples (`trident.commands.examples`).
    """

    def __init__(self, **keywords: Any) -> None:
        examples = examples_of(str(keywords.get("prog")))
        if examples:
            keywords["epilog"] = "\n\n".join(part for part in (keywords.get("epilog"), examples) if part)
        super().__init__(**{"formatter_class": HelpFormatter, **keywords})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, unless `parser_of` asks for the parser itself."""
        if _asked_for_parser.get():
            raise ParserBuilt(self)
        return super().parse_known_args(args, namespace)

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `parse_known_args`."""
        if _asked_for_parser.get():
            raise ParserBuilt(self)
        return super().parse_known_intermixed_args(args, namespace)

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


def parser_of(command: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """The parser of a command, which is stopped where it would parse its arguments: nothing else of it runs."""
    before = _asked_for_parser.set(True)
    try:
        command([])
    except ParserBuilt as built:
        return built.parser
    finally:
        _asked_for_parser.reset(before)
    raise AssertionError(f"{command} parses no arguments")


def option_parser(
    program: str, description: str | None, names: Collection[str], required: Collection[str]
) -> OptionParser:
    """A parser with these options of the settings, grouped; what is not given is left out of the result."""
    parser = OptionParser(prog=program, description=description, allow_abbrev=False, formatter_class=HelpFormatter)
    groups = {key: parser.add_argument_group(title) for key, title in GROUP_TITLES.items()}
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
        default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        text += f" Default: {default}."
    return text.replace("%", "%%")
