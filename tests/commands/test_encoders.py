"""`trident encoders`, and the page of the docs that is made with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trident.commands.encoders import patch_encoder_rows, run, slide_encoder_rows
from trident.commands.table import render
from trident.encoders.patch.registry import PATCH_ENCODER_NAMES
from trident.encoders.slide.registry import SLIDE_ENCODER_NAMES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"


def test_every_encoder_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows if row["kind"] == "patch"} == set(PATCH_ENCODER_NAMES)
    slides = {row["name"] for row in rows if row["kind"] == "slide"}
    assert slides == {name for name in SLIDE_ENCODER_NAMES if not name.startswith("mean-")} | {"mean-<patch encoder>"}
    assert all(row["licence"] for row in rows if row["name"] != "mean-<patch encoder>")


@pytest.mark.parametrize(("kind", "first"), [("patch", "conch_v1 "), ("slide", "threads ")])
def test_one_kind(capsys: pytest.CaptureFixture[str], kind: str, first: str) -> None:
    assert run(["--kind", kind]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(first)


def test_the_docs_show_the_declarations() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for rows in (patch_encoder_rows(), slide_encoder_rows()):
        assert render(rows, "markdown") in text, "make the tables anew: `trident encoders --format markdown --kind …`"
