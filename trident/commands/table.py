"""Rows on stdout, for people and for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

Row = Mapping[str, object]
Format = Literal["table", "json", "markdown"]
FORMATS: tuple[Format, ...] = get_args(Format)


def show(rows: Sequence[Row], form: Format) -> None:
    """Print rows that share their keys."""
    sys.stdout.write(render(rows, form))


def render(rows: Sequence[Row], form: Format) -> str:
    """Rows that share their keys as a table with aligned columns, a JSON list, or a Markdown table."""
    if form == "json":
        return json.dumps([dict(row) for row in rows], indent=2) + "\n"
    if not rows:
        return ""
    head = list(rows[0])
    lines = [[_cell(row[key]) for key in head] for row in rows]
    if form == "markdown":
        rule = ["---"] * len(head)
        return "".join(f"| {' | '.join(line)} |\n" for line in [head, rule, *lines])
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    return "".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in [head, *lines]
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
