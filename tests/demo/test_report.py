"""The table counts what the files hold."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from trident import exit_codes
from trident.demo.__main__ import main
from trident.demo.report import report
from trident.errors import StoreError

GRID = "20x_256px_0px_overlap"


def _h5(path: Path, **shapes: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            file[name] = np.zeros(shape)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Slide `a` is complete; `b` has tissue and no patch; `c` got no further than its outlines."""
    outlines = tmp_path / "contours_geojson"
    outlines.mkdir()
    for slide, pieces in (("a", 5), ("b", 0), ("c", 2)):
        (outlines / f"{slide}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [{}] * pieces}))
    _h5(tmp_path / GRID / "patches" / "a_patches.h5", coords=(137, 2))
    _h5(tmp_path / GRID / "patches" / "b_patches.h5", coords=(0, 2))
    _h5(tmp_path / GRID / "features_stain-stats" / "a.h5", features=(137, 64), coords=(137, 2))
    _h5(tmp_path / GRID / "slide_features_mean-stain-stats" / "a.h5", features=(64,), coords=(137, 2))
    return tmp_path


def test_counts(job: Path) -> None:
    text = report(job)
    rows = {line.split("  ")[0]: line.split()[1:] for line in text.splitlines() if line[:1] in "abc" and "  " in line}
    assert rows["a"] == ["5", "137", "137", "x", "64", "64"]
    assert rows["b"] == ["0", "0", "-", "-"]
    assert rows["c"] == ["2", "-", "-", "-"]
    assert str(job.resolve()) in text
    assert f"{GRID}/features_stain-stats" in text
    assert "thumbnails" not in text.split(GRID)[0], "folders that do not exist are not listed"


def test_outlines_only(job: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    only = tmp_path_factory.mktemp("only")
    (job / "contours_geojson").rename(only / "contours_geojson")
    assert [line.split() for line in report(only).splitlines()[-3:]] == [["a", "5"], ["b", "0"], ["c", "2"]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "no such job directory"),
        ("empty", "holds no tissue outlines"),
        (f"{GRID}/patches/a_patches.h5", "a_patches.h5: has no readable `coords`"),
        (f"{GRID}/features_stain-stats/a.h5", "a.h5: has no readable `features`"),
        ("contours_geojson/a.geojson", "a.geojson: is not a GeoJSON"),
    ],
)
def test_errors_name_the_file(
    job: Path, tmp_path_factory: pytest.TempPathFactory, damage: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "missing":
        job = job / "elsewhere"
    elif damage == "empty":
        job = tmp_path_factory.mktemp("empty")
    else:
        (job / damage).write_text("[]")
    with pytest.raises(StoreError, match=message):
        report(job)
    assert main(["report", str(job)]) == exit_codes.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_a_file_without_the_dataset(job: Path) -> None:
    _h5(job / GRID / "patches" / "a_patches.h5", other=(1,))
    with pytest.raises(StoreError, match="has no readable `coords`"):
        report(job)


def test_main_draws_and_reports(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "drawn" / "x.svs"
    assert main(["draw", str(target), "--width-px", "300", "--height-px", "256", "--seed", "2"]) == 0
    assert target.stat().st_size > 5_000
    assert main(["report", str(job)]) == 0
    assert "137 x 64" in capsys.readouterr().out
    assert main(["draw", str(target), "--width-px", "1"]) == exit_codes.USAGE
    assert "width_px is 1;" in capsys.readouterr().err
