"""`trident similar`, as a user types it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trident import exit_codes
from trident.cli import main

GRID = "20x_128px_0px_overlap"
HOSTILE = 'Ünï <b>&"x,y'
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(quiet_process: None, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["similar", *(str(one) for one in arguments)])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def job(tmp_path: Path, put_features: Callable[..., Path], drawn_slides: Callable[..., Path]) -> Path:
    """Features that turn with the row: row i of every slide is nearest to row i of the others."""
    folder = drawn_slides(tmp_path / "slides", "a.svs", f"{HOSTILE}.svs")
    for shift, name in enumerate(["a", HOSTILE, "gone"]):
        angles = np.arange(12) * 0.2 + shift * 0.01
        values = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        put_features(tmp_path / "job", name, values, slide_path=folder / f"{name}.svs")
    put_features(tmp_path / "job", "empty", np.zeros((0, 2)))
    return tmp_path / "job"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_and_sheet(job: Path, run: Run) -> None:
    code, out, err = run(job, "a", "--index", 4, "--patch", 130, 10, "--top", 3)
    picture, table = map(Path, out.splitlines())
    assert code == exit_codes.OK
    assert "gone.svs: the slide is gone" in err
    assert picture == job / GRID / "views" / "features_enc" / "similar" / "patch_4_1" / "a.png"
    rows = _rows(table)
    found = [(row["query"], row["query_index"], row["rank"], row["slide"], row["index"]) for row in rows]
    assert found[:2] == [("1", "4", "1", HOSTILE, "4"), ("1", "4", "2", "gone", "4")]
    assert found[3:5] == [("2", "1", "1", HOSTILE, "1"), ("2", "1", "2", "gone", "1")]
    np.testing.assert_allclose([float(row["cosine"]) for row in rows[:3]], np.cos([0.01, 0.02, 0.18]), atol=1e-6)
    assert (rows[0]["x"], rows[0]["y"]) == ("512", "0")
    assert rows[0]["slide_path"] == str(job.parent / "slides" / f"{HOSTILE}.svs")
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_other_slides_where_they_have_been_moved_to(job: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "slides").rename(tmp_path / "moved")
    output = tmp_path / "found.png"
    code, out, err = run(
        job, tmp_path / "a.svs", "--index", 0, 1, "--other_slides", "--wsi_dir", tmp_path / "moved", "--output", output
    )
    assert (code, out) == (exit_codes.OK, f"{output}\n{tmp_path / 'found.csv'}\n")
    rows = _rows(tmp_path / "found.csv")
    assert {row["slide"] for row in rows} == {HOSTILE, "gone"}
    assert len(rows) == 2 * 16
    assert {row["slide_path"] for row in rows} == {str(tmp_path / "moved" / f"{HOSTILE}.svs"), ""}
    assert "gone: its file is not known here" in err


def test_a_table_of_somebody_else_is_not_replaced(job: Path, tmp_path: Path, run: Run) -> None:
    notes, picture = tmp_path / "notes.csv", tmp_path / "notes.png"
    notes.write_text("mine\n")
    code, out, err = run(job, "a", "--index", 1, "--output", picture)
    assert (code, out, err.count("\n")) == (exit_codes.USAGE, "", 1)
    assert f"{notes}: no table that belongs to notes.png" in err
    assert (notes.read_text(), picture.exists()) == ("mine\n", False)
    notes.unlink()
    for index in (1, 2):
        assert run(job, "a", "--index", index, "--output", picture)[0] == exit_codes.OK
        assert {row["query_index"] for row in _rows(notes)} == {str(index)}


def test_the_sheet_counts_the_slides_that_were_searched(job: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import trident.viz.features.sheet as sheet

    titles = []
    drawn = sheet.draw_sheet
    monkeypatch.setattr(sheet, "draw_sheet", lambda title, *rest: titles.append(title) or drawn(title, *rest))
    (job / GRID / "features_enc" / "gone.h5").write_bytes(b"x")
    assert run(job, "a", "--index", 1)[0] == exit_codes.FINISHED_WITH_FAILURES
    assert titles[0].endswith("24 patches of 3 slides"), "one of four is damaged, one has no patches"


def test_a_bad_file_is_named(job: Path, run: Run) -> None:
    bad = job / GRID / "features_enc" / "bad.h5"
    bad.write_bytes(b"bad")
    code, out, err = run(job, "a", "--index", 0)
    assert code == exit_codes.FINISHED_WITH_FAILURES
    assert str(bad) in err
    assert "1 of 5 files of features could not be searched" in err
    assert len(_rows(Path(out.splitlines()[1]))) == 16


def test_a_cohort_of_one_patch(job: Path, run: Run, put_features: Callable[..., Path]) -> None:
    put_features(job, "only", [[1.0, 2.0]], encoder="own")
    code, out, _ = run(job, "only", "--index", 0, "--patch_encoder", "own")
    assert code == exit_codes.OK
    assert _rows(Path(out.splitlines()[1])) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "0 patches to look for"),
        (["a", "--index", *["1"] * 51], "51 patches to look for; name 1 to 50"),
        (["a", "--index", "0", "--top", "0"], "--top 0: give a number from 1 to 1000"),
        (["a", "--index", "99"], "--index 99: slide a has rows 0 to 11"),
        (["a", "--patch", "1"], "expected 2 arguments"),
        (["a", "--patch", "9999", "0"], "slide a has no patch there"),
        (["empty", "--index", "0"], "slide empty has no patches"),
        (["none", "--index", "0"], "no features of a slide 'none'"),
        (["a", "--index", "0", "--output", "x"], "name a file that ends in .png"),
    ],
)
def test_wrong_options(job: Path, run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(job, *arguments)
    assert (code, out) == (exit_codes.USAGE, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (job / GRID / "views").exists()
