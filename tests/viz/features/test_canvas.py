"""Panels and their text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trident.viz.features.canvas import INK, PAPER, ColourScale, Panel, compose, drawable, paragraph_on, text_on

TABLE = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain_1.a", "plain_1.a"),
        ("Ünï · 5", "Uni · 5"),
        ("two\nlines\tand\x1b[31m", "two lines and?[31m"),
        ("组织 \u202e \udcff", "?? ? ?"),
        ("größe 切片", "grosse ??"),
        ("Łódź Ærø", "Lodz AEro"),
        ("", ""),
    ],
)
def test_drawable(text: str, shown: str) -> None:
    assert drawable(text) == shown


@pytest.mark.parametrize("text", ["x", "n" * 500, "", "组" * 90])
def test_a_line_keeps_to_its_width(text: str) -> None:
    canvas = Image.new("RGB", (400, 40), PAPER)
    text_on(ImageDraw.Draw(canvas), (10, 5), text, 200, size_px=15)
    dark = np.argwhere((np.asarray(canvas) < 128).any(axis=2))
    assert bool(len(dark)) == bool(text)
    if text:
        assert dark[:, 1].min() >= 10
        assert dark[:, 1].max() <= 212


def test_a_paragraph_keeps_to_its_box() -> None:
    canvas = Image.new("RGB", (200, 200), PAPER)
    paragraph_on(ImageDraw.Draw(canvas), (20, 30, 180, 100), "a word and " * 80, size_px=13)
    dark = np.argwhere((np.asarray(canvas) < 128).any(axis=2))
    assert dark[:, 0].min() >= 30
    assert dark[:, 0].max() <= 102
    assert dark[:, 1].max() <= 190


def test_every_panel_stands_whole_on_the_canvas() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [np.full((50, 80, 3), colour, np.uint8) for colour in colours]
    panels = [Panel(image, "title", ColourScale(TABLE, -1, 2.5)) for image in images]
    canvas = np.asarray(compose("a title", panels, 2))
    places = [np.argwhere((canvas == colour).all(axis=2)) for colour in colours]
    assert [len(place) for place in places] == [4000] * 3
    assert places[0][0][0] == places[1][0][0] < places[2][0][0]
    assert places[0][0][1] == places[2][0][1] < places[1][0][1]
    assert (canvas == INK).all(axis=2).any()


def test_the_scale_runs_from_the_first_colour_to_the_last() -> None:
    table = np.stack([np.linspace(10, 255, 256).astype(np.uint8), *np.zeros((2, 256), np.uint8)], axis=1)
    panel = Panel(np.full((60, 400, 3), 255, np.uint8), "", ColourScale(table, 0, 1))
    canvas = np.asarray(compose("", [panel], 1)).astype(int)
    row = next(line for line in canvas if ((line[:, 0] > 100) & (line[:, 1] == 0)).sum() > 100)
    reds = row[(row[:, 1] == 0) & (row[:, 2] == 0), 0]
    assert (np.diff(reds) >= 0).all()
    assert (reds[0], reds[-1]) == (10, 255)
