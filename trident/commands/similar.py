"""`trident similar`: the patches of a whole cohort that are nearest to given ones, by the cosine of their features."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trident import exit_codes
from trident.commands.options import OptionParser
from trident.commands.view import add_choice, check_png
from trident.errors import SettingsError

if TYPE_CHECKING:
    from trident.export.sources import FeatureSet
    from trident.viz.features.search import Match, Query
    from trident.viz.features.slide_files import SlideFiles

MAX_QUERIES = 50
MAX_TOP = 1000
_NAMED_ROWS = 4
_COLUMNS = (
    "query", "query_slide", "query_index", "query_x", "query_y", "rank", "slide", "index", "x", "y", "cosine",
    "slide_path",
)  # fmt: skip


def run(arguments: list[str]) -> int:
    """Write the table and the contact sheet and print their paths. Returns the exit code.

    Raises:
        TridentError: an option is wrong, the query cannot be read, or a file cannot be written.
    """
    parser = OptionParser(prog="trident similar", description=__doc__, allow_abbrev=False)
    parser.add_argument("job_dir", metavar="JOB_DIR", type=Path, help="job directory of a run")
    parser.add_argument("slide", metavar="SLIDE", help="slide of the query: its name, or its file")
    parser.add_argument(
        "--patch",
        nargs=2,
        metavar=("X", "Y"),
        type=int,
        action="append",
        default=[],
        help="a patch by its corner, or a point in it, in level-0 pixels; may be given several times",
    )
    parser.add_argument(
        "--index",
        nargs="+",
        metavar="I",
        type=int,
        action="extend",
        default=[],
        help="patches by their rows in the features, counted from 0",
    )
    parser.add_argument("--top", metavar="K", type=int, default=16, help="matches of each query; default: 16")
    parser.add_argument("--other_slides", action="store_true", help="look at other slides only")
    parser.add_argument("--output", metavar="FILE", type=Path, help="PNG to write; default: below GRID/views")
    add_choice(parser)
    given = parser.parse_args(arguments)
    n_queries = len(given.patch) + len(given.index)
    if not 1 <= n_queries <= MAX_QUERIES:
        raise SettingsError(f"{n_queries} patches to look for; name 1 to {MAX_QUERIES} with --patch X Y or --index I")
    if not 1 <= given.top <= MAX_TOP:
        raise SettingsError(f"--top {given.top}: give a number from 1 to {MAX_TOP}")
    if given.output is not None:
        check_png(given.output)

    from trident import log
    from trident.devices import restrict_visibility

    restrict_visibility(-1)  # nothing is computed on a GPU here, and cuCIM would open a context on each
    log.configure(quiet=True)
    return _search(given)


def _search(given: argparse.Namespace) -> int:
    from tqdm import tqdm

    from trident.export.sources import choose_features
    from trident.viz.features.outputs import check_output, save_both, table_of
    from trident.viz.features.search import find_queries, find_similar
    from trident.viz.features.sheet import draw_sheet, read_tiles
    from trident.viz.features.slide_files import SlideFiles

    chosen = choose_features(given.job_dir, "patch", grid=given.grid, encoder=given.patch_encoder)
    slide = chosen.slide(given.slide)
    queries = find_queries(chosen.file(slide), slide, given.index, [(x, y) for x, y in given.patch])
    picture = given.output or _usual_output(chosen, slide, queries)
    check_output(picture, named=given.output is not None)
    names = chosen.slides()
    with tqdm(total=len(names), unit="slide", disable=None) as bar:
        found = find_similar(
            ((name, chosen.file(name)) for name in names),
            queries,
            given.top,
            accept=lambda name, query: not (given.other_slides and name == query.patch.slide),
            progress=lambda done: bar.update(),
        )
    slides = SlideFiles(given.job_dir, given.wsi_dir)
    rows = _rows(queries, found.matches, slides)
    shown = [query.patch for query in queries] + [match.patch for matches in found.matches for match in matches]
    n_searched = len(names) - len(found.problems)
    title = f"{chosen.encoder}  ·  {chosen.grid}  ·  {found.n_patches:,} patches of {n_searched:,} slides"
    save_both(picture, draw_sheet(title, queries, found.matches, read_tiles(chosen, slides, shown)), _COLUMNS, rows)
    for path in (picture, table_of(picture)):
        sys.stdout.write(str(path).encode("utf-8", "backslashreplace").decode() + "\n")
    if found.problems:
        sys.stderr.write(f"{len(found.problems)} of {len(names)} files of features could not be searched\n")
        return exit_codes.FINISHED_WITH_FAILURES
    return exit_codes.OK


def _rows(queries: Sequence[Query], matches: Sequence[Sequence[Match]], slides: SlideFiles) -> list[list[object]]:
    paths = {name: slides.path(name) for name in {match.patch.slide for found in matches for match in found}}
    rows: list[list[object]] = []
    for number, (query, found) in enumerate(zip(queries, matches, strict=True), start=1):
        asked = [number, query.patch.slide, query.patch.index, query.patch.x, query.patch.y]
        for rank, match in enumerate(found, start=1):
            patch = match.patch
            path = paths[patch.slide] or ""
            rows.append([*asked, rank, patch.slide, patch.index, patch.x, patch.y, f"{match.cosine:.6f}", str(path)])
    return rows


def _usual_output(chosen: FeatureSet, slide: str, queries: Sequence[Query]) -> Path:
    named = "_".join(str(query.patch.index) for query in queries[:_NAMED_ROWS])
    if len(queries) > _NAMED_ROWS:
        named += f"_and_{len(queries) - _NAMED_ROWS}_more"
    return chosen.layout.grid_dir / "views" / chosen.folder.name / "similar" / f"patch_{named}" / f"{slide}.png"
