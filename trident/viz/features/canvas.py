"""Panels with titles and colour scales, put together into one picture."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trident.slides.base import RGBImage

INK = (32, 32, 32)
PAPER = (255, 255, 255)
_MARGIN_PX = 14
_TITLE_PX = 22
_SMALL_PX = 17
_SPELT = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
    | {"ẞ": "SS", "Æ": "AE", "Œ": "OE", "Ø": "O", "Ł": "L", "Đ": "D", "Ð": "D", "Þ": "TH"}
)
"""Letters that are no other letter with an accent."""
_MORE_GLYPHS = "·"
"""Beside ASCII, of those that are used here: Pillow's own font has few more, and a machine need not have any other."""


@dataclass(frozen=True)
class ColourScale:
    """What colours mean.

    Attributes:
        table: uint8 (256, 3), from the lowest to the highest.
        low: value of the first colour.
        high: value of the last one.
    """

    table: NDArray[np.uint8]
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One picture with a line above it and, where there is one, a colour scale below."""

    image: RGBImage
    title: str
    scale: ColourScale | None = None


def drawable(text: str) -> str:
    """Text of a file name on one line, in the letters that the font has.

    Accents go, `ß` is `ss`, and what else the font lacks is `?`.
    """
    plain = unicodedata.normalize("NFKD", " ".join(text.split()).translate(_SPELT))
    letters = (one for one in plain if not unicodedata.combining(one))
    return "".join(one if one in _MORE_GLYPHS or (one.isascii() and one.isprintable()) else "?" for one in letters)


def text_on(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width_px: int, *, size_px: int) -> None:
    """One line, its middle left out where it is wider than `width_px`."""
    font = ImageFont.load_default(size_px)
    shown = line = drawable(text)
    keep = len(line)
    while keep > 2 and font.getlength(shown) > width_px:
        keep -= max(1, keep // 12)
        shown = f"{line[: (keep + 1) // 2]}...{line[len(line) - keep // 2 :]}"
    draw.text(place, shown, fill=INK, font=font)


def paragraph_on(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], text: str, *, size_px: int) -> None:
    """Text broken into lines, from the top left of `box` (left, top, right, bottom); what does not fit is left out."""
    font = ImageFont.load_default(size_px)
    left, top, right, bottom = box
    letters = max(4, int((right - left) / font.getlength("n")))
    lines = textwrap.wrap(drawable(text), letters)[: (bottom - top) // (size_px + 3)]
    for number, line in enumerate(lines):
        draw.text((left, top + number * (size_px + 3)), line, fill=INK, font=font)


def compose(title: str, panels: Sequence[Panel], columns: int) -> Image.Image:
    """Panels of one size, row by row, under a title."""
    height_px, width_px = panels[0].image.shape[:2]
    head_px = _TITLE_PX + 2 * _MARGIN_PX
    scale_px = _SMALL_PX + 18 if any(panel.scale for panel in panels) else 0
    cell_px = (width_px + _MARGIN_PX, height_px + _SMALL_PX + scale_px + 2 * _MARGIN_PX)
    rows = -(-len(panels) // columns)
    canvas = Image.new("RGB", (columns * cell_px[0] + _MARGIN_PX, head_px + rows * cell_px[1]), PAPER)
    draw = ImageDraw.Draw(canvas)
    text_on(draw, (_MARGIN_PX, _MARGIN_PX), title, canvas.width - 2 * _MARGIN_PX, size_px=_TITLE_PX)
    for number, panel in enumerate(panels):
        left = _MARGIN_PX + number % columns * cell_px[0]
        top = head_px + number // columns * cell_px[1]
        text_on(draw, (left, top), panel.title, width_px, size_px=_SMALL_PX)
        canvas.paste(Image.fromarray(panel.image), (left, top + _SMALL_PX + 8))
        if panel.scale is not None:
            _scale_on(canvas, draw, panel.scale, (left, top + _SMALL_PX + height_px + 14), width_px)
    return canvas


def _scale_on(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, scale: ColourScale, place: tuple[int, int], width_px: int
) -> None:
    """The colours in a bar, with the lowest and the highest value at its sides."""
    font = ImageFont.load_default(_SMALL_PX)
    low, high = f"{scale.low:.4g}", f"{scale.high:.4g}"
    left, top = place
    first = left + round(font.getlength(low)) + 10
    last = left + width_px - round(font.getlength(high)) - 10
    draw.text((left, top), low, fill=INK, font=font)
    draw.text((last + 10, top), high, fill=INK, font=font)
    if last > first:
        bar = Image.fromarray(scale.table[np.newaxis]).resize((last - first, _SMALL_PX - 2))
        canvas.paste(bar, (first, top + 3))
