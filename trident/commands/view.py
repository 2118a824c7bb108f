"""`trident view`: the patch features of a slide, or scores of its patches, as colours over the slide."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trident import exit_codes
from trident.commands.options import OptionParser
from trident.errors import SettingsError


def run(arguments: list[str]) -> int:
    """Write the picture and its table and print their paths. Returns the exit code.

    Raises:
        TridentError: an option is wrong, the features cannot be read, or a file cannot be written.
    """
    parser = OptionParser(prog="trident view", description=__doc__, allow_abbrev=False)
    parser.add_argument("job_dir", metavar="JOB_DIR", type=Path, help="job directory of a run")
    parser.add_argument("slide", metavar="SLIDE", help="name of a slide, or its file")
    parser.add_argument("--component", metavar="K", type=int, help="show only this principal component, 1 or more")
    parser.add_argument(
        "--scores", metavar="FILE", type=Path, help="show scores from a CSV with columns x, y (level 0)"
    )
    parser.add_argument("--column", metavar="NAME", help="column of the scores; default: score")
    parser.add_argument("--cmap", metavar="NAME", default="viridis", help="colour map; default: viridis")
    parser.add_argument("--output", metavar="FILE", type=Path, help="PNG to write; default: below GRID/views")
    add_choice(parser)
    given = parser.parse_args(arguments)
    if given.scores is not None and (given.component is not None or given.patch_encoder is not None):
        raise SettingsError("--scores shows a CSV; leave --component and --patch_encoder out")
    if given.scores is None and given.column is not None:
        raise SettingsError("--column names a column of a CSV; give the file with --scores")
    if given.output is not None:
        check_png(given.output)

    from trident import log
    from trident.devices import restrict_visibility

    restrict_visibility(-1)  # nothing is computed on a GPU here, and cuCIM would open a context on each
    log.configure(quiet=True)
    for path in _write(given):
        sys.stdout.write(str(path).encode("utf-8", "backslashreplace").decode() + "\n")
    return exit_codes.OK


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Options that say which features of a job are meant, and where its slides are."""
    parser.add_argument("--grid", metavar="DIR", help="patch grid in JOB_DIR, where there are several")
    parser.add_argument("--patch_encoder", metavar="NAME", help="whose features, where there are several")
    parser.add_argument("--wsi_dir", metavar="DIR", type=Path, help="where the slides are, if they have been moved")


def check_png(output: Path) -> None:
    """Raise SettingsError unless `output` names a PNG."""
    if output.suffix.lower() != ".png":
        raise SettingsError(f"--output {output}: name a file that ends in .png; the table goes beside it as .csv")


def _write(given: argparse.Namespace) -> tuple[Path, Path]:
    from trident.export.sources import choose_features, choose_grid
    from trident.store.layout import JobLayout
    from trident.viz.colormaps import color_table
    from trident.viz.features.outputs import check_output
    from trident.viz.features.slide_files import SlideFiles
    from trident.viz.features.view import view_components, view_scores

    color_table(given.cmap)  # an unknown name should not wait for the features
    slides = SlideFiles(given.job_dir, given.wsi_dir)
    if given.scores is not None:
        column = given.column or "score"
        grid, name = choose_grid(given.job_dir, given.grid, given.slide)
        layout = JobLayout(given.job_dir, grid)
        folder = column.replace("/", "_").lstrip(".") or "scores"
        output = given.output or layout.grid_dir / "views" / "scores" / folder / f"{name}.png"
        check_output(output, named=given.output is not None, source=given.scores)
        written = view_scores(layout, name, slides, output, scores=given.scores, column=column, cmap=given.cmap)
    else:
        chosen = choose_features(given.job_dir, "patch", grid=given.grid, encoder=given.patch_encoder)
        name = chosen.slide(given.slide)
        kind = "components" if given.component is None else f"component_{given.component}"
        output = given.output or chosen.layout.grid_dir / "views" / chosen.folder.name / kind / f"{name}.png"
        check_output(output, named=given.output is not None)
        written = view_components(chosen, name, slides, output, component=given.component, cmap=given.cmap)
    return written.picture, written.table
