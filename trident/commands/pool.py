"""`trident pool`: one vector a patient, from slides whose features are there."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def run(arguments: list[str]) -> int:
    """Pool the slides of each patient. Returns the exit code.

    Raises:
        TridentError: an option is wrong, or the list of patients cannot be read.
    """
    from trident import log
    from trident.commands.options import option_parser

    pool = import_module("luigi_tasks.pool")
    parser = option_parser("trident pool", __doc__, pool.OPTIONS, {"job_dir", "slide_encoder"})
    parser.add_argument("--patients", required=True, help="CSV with the columns `patient` and `wsi`.")
    parser.add_argument(
        "--pooling",
        default="mean",
        metavar="{" + ",".join(pool.POOLINGS) + "}",
        help="mean of the slide embeddings, or early: all patches of a patient go through the slide encoder together.",
    )
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    log.configure()
    return int(import_module("luigi_tasks.start").run_pool(given))
