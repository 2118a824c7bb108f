"""`trident convert`: slides and images of any readable format to pyramidal TIFF."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from trident.errors import SettingsError
from trident.settings import Settings, is_flag, is_list, load_settings

_SET_HERE = ("wsi_dir", "wsi_ext", "search_nested", "custom_list_of_wsis", "slide_path")
"""Options of `trident batch` that follow from the conversion."""

_EPILOG = (
    "With --then_process, what follows after `--` are options of `trident batch` for the converted files: "
    "`trident convert ... --then_process -- --task all --mag 20`."
)


def run(arguments: list[str]) -> int:
    """Convert the files of a directory. Returns the exit code.

    Raises:
        TridentError: an option is wrong, or the files cannot be listed.
    """
    from trident import log

    own, following = _split(arguments)
    parser = _parser()
    given: dict[str, Any] = vars(parser.parse_args(own))
    if given.pop("then_process", False):
        given["then_process"] = tuple(following)
    elif following:
        raise SettingsError(
            f"{following[0]} after `--` is an option of `trident batch`: add --then_process before `--`"
        )
    log.configure()
    return int(import_module("luigi_tasks.convert").run_convert(given))


def following_settings(arguments: Sequence[str], job_dir: Path, slides: Path) -> Settings:
    """Settings of the run over the converted files.

    Args:
        arguments: options of `trident batch`; outputs go beside the TIFFs unless they say otherwise.
        job_dir: folder of the TIFFs.
        slides: list of those that are good, once they are.

    Raises:
        SettingsError: an option is wrong.
    """
    from trident.commands.options import option_parser

    names = Settings.model_fields.keys() - set(_SET_HERE)
    parser = option_parser("trident convert --then_process --", "Process the converted files.", names, ())
    given = {"job_dir": job_dir, **vars(parser.parse_args(list(arguments)))}
    fixed = {"wsi_dir": job_dir, "custom_list_of_wsis": slides, "slide_path": None, "wsi_ext": None}
    return load_settings(**given, **fixed, search_nested=False)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    from trident.commands.options import HelpFormatter, OptionParser
    from trident.convert.options import ConvertOptions

    parser = OptionParser(
        prog="trident convert", description=__doc__, epilog=_EPILOG, allow_abbrev=False, formatter_class=HelpFormatter
    )
    for name, field in ConvertOptions.model_fields.items():
        text = str(field.description)
        keywords: dict[str, Any] = {"default": argparse.SUPPRESS}
        if is_flag(field):
            keywords["action"] = "store_true"
        else:
            keywords |= {"metavar": name.upper(), "required": field.is_required()}
            if is_list(field):
                keywords["nargs"] = "+"
            elif field.default is not None and not field.is_required():
                text += f" Default: {field.default}."
        parser.add_argument(f"--{name}", help=text.replace("%", "%%"), **keywords)
    parser.add_argument(
        "--then_process",
        action="store_true",
        default=argparse.SUPPRESS,
        help="Then process the converted files with the options after `--`.",
    )
    return parser
