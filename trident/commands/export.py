"""`trident export`: features and embeddings of a job directory in the formats of other tools."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from trident import exit_codes
from trident.commands.options import OptionParser
from trident.errors import SettingsError

logger = logging.getLogger(__name__)

FORMAT_NAMES = ("pt", "zarr", "h5ad", "parquet")


def run(arguments: list[str]) -> int:
    """Write the files and print their folder, or the one file. Returns the exit code.

    Raises:
        TridentError: an option is wrong, there is nothing to export, or the output folder cannot be used.
    """
    parser = OptionParser(prog="trident export", description=__doc__, allow_abbrev=False)
    parser.add_argument("job_dir", metavar="JOB_DIR", type=Path, help="job directory of a run")
    parser.add_argument(
        "--format",
        required=True,
        metavar="{" + ",".join(FORMAT_NAMES) + "}",
        help="pt, zarr, h5ad: patch features, one file a slide; parquet: slide embeddings, one file for all",
    )
    parser.add_argument("--output", required=True, metavar="DIR", type=Path, help="folder to write to")
    parser.add_argument("--grid", metavar="DIR", help="patch grid in JOB_DIR, where there are several")
    parser.add_argument("--patch_encoder", metavar="NAME", help="whose patch features, where there are several")
    parser.add_argument("--slide_encoder", metavar="NAME", help="whose slide embeddings, where there are several")
    parser.add_argument("--overwrite", action="store_true", help="write again what is there")
    given = parser.parse_args(arguments)
    if given.format not in FORMAT_NAMES:
        raise SettingsError(f"--format {given.format}: choose one of {', '.join(FORMAT_NAMES)}")
    of_slides = given.format == "parquet"
    if given.patch_encoder is not None and of_slides:
        raise SettingsError("--format parquet holds slide embeddings: choose with --slide_encoder")
    if given.slide_encoder is not None and not of_slides:
        raise SettingsError(f"--format {given.format} holds patch features: choose with --patch_encoder")

    from trident import log
    from trident.devices import restrict_visibility

    restrict_visibility(-1)  # nothing is computed on a GPU here
    log.configure()
    return _export(given, of_slides)


def _export(given: argparse.Namespace, of_slides: bool) -> int:
    from tqdm import tqdm

    from trident.export.cohort import PARQUET_PACKAGES, export_cohort
    from trident.export.formats import FORMATS, require_packages
    from trident.export.slides import export_slides
    from trident.export.sources import choose_features

    require_packages(given.format, PARQUET_PACKAGES if of_slides else FORMATS[given.format].packages)
    encoder = given.slide_encoder if of_slides else given.patch_encoder
    chosen = choose_features(given.job_dir, "slide" if of_slides else "patch", grid=given.grid, encoder=encoder)
    files = [(slide, chosen.file(slide)) for slide in chosen.slides()]
    written = given.output / f"{chosen.folder.name}.parquet" if of_slides else given.output
    with tqdm(total=len(files), unit="slide", disable=None) as bar:
        if of_slides:
            outcome = export_cohort(
                files, written, encoder=chosen.encoder, overwrite=given.overwrite, progress=bar.update
            )
        else:
            outcome = export_slides(
                files, written, given.format, encoder=chosen.encoder, overwrite=given.overwrite, progress=bar.update
            )
    logger.info(
        "%d slides: %d exported%s, %d were there, %d failed",
        len(files),
        outcome.written,
        f" ({outcome.replaced} in place of an earlier file)" if outcome.replaced else "",
        outcome.skipped,
        len(outcome.problems),
    )
    sys.stdout.write(str(written).encode("utf-8", "backslashreplace").decode() + "\n")
    return exit_codes.FINISHED_WITH_FAILURES if outcome.problems else exit_codes.OK
