"""A contact sheet: each query with the patches that are nearest to it, read from the slides."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from trident.errors import StoreError, TridentError
from trident.export.sources import FeatureSet
from trident.patching.legacy import plan_from_attributes
from trident.patching.reader import PatchReader
from trident.slides.base import RGBImage
from trident.store import h5
from trident.viz.features.canvas import PAPER, paragraph_on, text_on
from trident.viz.features.search import Match, Patch, Query
from trident.viz.features.slide_files import SlideFiles

logger = logging.getLogger(__name__)

TILE_PX = 192
MAX_COLUMNS = 8
"""Matches in a row; further ones follow below."""
MAX_READ_PX = 8192
"""A patch that is larger in the file is not read for a picture of 192 px."""

_GAP_PX = 12
_TEXT_PX = 15
_TITLE_PX = 22
_CELL_PX = (TILE_PX + _GAP_PX, TILE_PX + 2 * (_TEXT_PX + 3) + _GAP_PX)
_QUERY_RGB = (200, 30, 60)
_FRAME_RGB = (170, 170, 170)
_EMPTY_RGB = (244, 244, 244)

Tile = RGBImage | str
"""A patch, or the reason why it is not there."""


def read_tiles(chosen: FeatureSet, slides: SlideFiles, patches: Iterable[Patch]) -> dict[Patch, Tile]:
    """The pixels of patches, `TILE_PX` wide. Each slide is opened once; one that cannot be read costs no other.

    Args:
        chosen: the features that the patches were found in; their files say how large a patch is.
        slides: where slide files are.
        patches: of any slides.
    """
    by_slide: dict[str, list[Patch]] = {}
    for patch in dict.fromkeys(patches):
        by_slide.setdefault(patch.slide, []).append(patch)
    tiles: dict[Patch, Tile] = {}
    for slide, wanted in by_slide.items():
        try:
            with slides.open(slide) as opened:
                path = chosen.file(slide)
                plan = plan_from_attributes(h5.read_coords(path).attributes, opened, source=path).plan
                if max(plan.read_px, plan.patch_size_px) > MAX_READ_PX:
                    raise StoreError(f"{path}: its patches are {plan.read_px} px wide, too large to be shown")
                reader = PatchReader(opened, plan)
                for patch in wanted:
                    tiles[patch] = _read(reader, patch)
        except TridentError as error:
            logger.warning("%s: its patches are not shown: %s", slide, error)
            tiles.update({patch: str(error) for patch in wanted if patch not in tiles})
    return tiles


def draw_sheet(
    title: str, queries: Sequence[Query], matches: Sequence[Sequence[Match]], tiles: Mapping[Patch, Tile]
) -> Image.Image:
    """The sheet: a query at the left, framed in red, and its matches beside it, the nearest first.

    A match is labelled with its rank, and with its row in a table of all matches in this order: the font does not have
    the letters of every slide's name.

    Args:
        title: above everything.
        queries: one a row, or a few rows where there are many matches.
        matches: of each query.
        tiles: of all patches.
    """
    columns = min(MAX_COLUMNS, max([len(found) for found in matches] + [2]))
    rows = [max(1, -(-len(found) // columns)) for found in matches]
    head_px = _TITLE_PX + 2 * _GAP_PX
    lead_px = _CELL_PX[0] + _GAP_PX
    size = (lead_px + columns * _CELL_PX[0] + _GAP_PX, head_px + sum(rows) * _CELL_PX[1])
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    text_on(draw, (_GAP_PX, _GAP_PX), title, size[0] - 2 * _GAP_PX, size_px=_TITLE_PX)
    top, table_row = head_px, 0
    for asked, (query, found, n_rows) in enumerate(zip(queries, matches, rows, strict=True), start=1):
        labels = f"query {asked}", query.patch.slide
        _tile_on(canvas, (_GAP_PX, top), tiles[query.patch], query.patch, labels=labels, query=True)
        for number, match in enumerate(found):
            place = (lead_px + _GAP_PX + number % columns * _CELL_PX[0], top + number // columns * _CELL_PX[1])
            table_row += 1
            labels = f"{number + 1}.  {match.cosine:.4f}", f"row {table_row}: {match.patch.slide}"
            _tile_on(canvas, place, tiles[match.patch], match.patch, labels=labels, query=False)
        top += n_rows * _CELL_PX[1]
    return canvas


def _read(reader: PatchReader, patch: Patch) -> Tile:
    try:
        pixels = Image.fromarray(reader.read(patch.x, patch.y))
    except TridentError as error:
        logger.warning("%s: patch %d is not shown: %s", patch.slide, patch.index, error)
        return str(error)
    return np.asarray(pixels.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), dtype=np.uint8)


def _tile_on(
    canvas: Image.Image, place: tuple[int, int], tile: Tile, patch: Patch, *, labels: tuple[str, str], query: bool
) -> None:
    draw = ImageDraw.Draw(canvas)
    left, top = place
    box = (left, top, left + TILE_PX - 1, top + TILE_PX - 1)
    if isinstance(tile, str):
        draw.rectangle(box, fill=_EMPTY_RGB)
        paragraph_on(draw, (left + 8, top + 8, left + TILE_PX - 8, top + TILE_PX - 8), tile, size_px=13)
    else:
        canvas.paste(Image.fromarray(tile), place)
    draw.rectangle(box, outline=_QUERY_RGB if query else _FRAME_RGB, width=5 if query else 1)
    below = top + TILE_PX + 2
    text_on(draw, (left, below), f"{labels[0]}   x {patch.x}  y {patch.y}", TILE_PX, size_px=_TEXT_PX)
    text_on(draw, (left, below + _TEXT_PX + 2), labels[1], TILE_PX, size_px=_TEXT_PX)
