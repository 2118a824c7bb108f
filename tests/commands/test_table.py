"""The three forms of a table."""

from __future__ import annotations

import json

from trident.commands.table import render

ROWS = [
    {"name": "a", "mag": 20.0, "gated": True, "here": None},
    {"name": "longer", "mag": 2.5, "gated": False, "here": "x"},
]


def test_columns_are_aligned() -> None:
    assert render(ROWS, "table") == (
        "name    mag  gated  here\n"
        "a       20   yes    -\n"
        "longer  2.5  no     x\n"
    )  # fmt: skip


def test_json_keeps_the_values() -> None:
    assert json.loads(render(ROWS, "json")) == ROWS


def test_markdown() -> None:
    assert render(ROWS, "markdown").splitlines()[:3] == [
        "| name | mag | gated | here |",
        "| --- | --- | --- | --- |",
        "| a | 20 | yes | - |",
    ]


def test_nothing_is_no_table() -> None:
    assert render([], "table") == ""
    assert render([], "json") == "[]\n"
