"""`trident pool`: one vector a patient, from slides whose features are there."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any


def run(arguments: list[str]) -> int:
    """Pool the slides of each patient. Returns the exit code.

    Raises:
        TridentError: an option is wrong, or the list of patients cannot be read.
    """
    from trident import log
    from trident.cli import add_option
    from trident.settings import Settings

    pool = import_module("luigi_tasks.pool")
    parser = argparse.ArgumentParser(prog="trident pool", description=__doc__, allow_abbrev=False)
    parser.add_argument("--patients", required=True, help="CSV with the columns `patient` and `wsi`.")
    parser.add_argument(
        "--pooling",
        choices=pool.POOLINGS,
        default="mean",
        help="mean of the slide embeddings, or early: all patches of a patient go through the slide encoder together.",
    )
    for name in pool.OPTIONS:
        add_option(parser, name, Settings.model_fields[name], required=name in {"job_dir", "slide_encoder"})
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    log.configure()
    return int(import_module("luigi_tasks.start").run_pool(given))
