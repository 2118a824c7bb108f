"""`trident view`, as a user types it."""

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
HOSTILE = "Ünï <b>&\"x' no\udcffutf8"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(quiet_process: None, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(one) for one in arguments])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def job(tmp_path: Path, put_features: Callable[..., Path], drawn_slides: Callable[..., Path]) -> Path:
    folder = drawn_slides(tmp_path / "slides", "a.svs", f"{HOSTILE}.svs")
    random = np.random.default_rng(0)
    for name, values in {"a": random.normal(size=(20, 6)), HOSTILE: np.eye(3), "empty": np.zeros((0, 6))}.items():
        path = folder / f"{name}.svs"
        put_features(tmp_path / "job", name, values, slide_path=path if path.exists() else None)
    return tmp_path / "job"


def _table(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=np.float64)


def test_three_components(job: Path, run: Run) -> None:
    code, out, err = run("view", job, "a")
    picture, table = map(Path, out.splitlines())
    assert (code, err) == (exit_codes.OK, "")
    assert picture == job / GRID / "views" / "features_enc" / "components" / "a.png"
    header, values = _table(table)
    assert header == ["x", "y", "component_1", "component_2", "component_3"]
    assert values.shape == (20, 5)
    assert (values[:, 2:].var(axis=0)[:-1] >= values[:, 2:].var(axis=0)[1:]).all()
    np.testing.assert_array_equal(values[9, :2], [128, 128])
    with Image.open(picture) as image:
        assert (image.format, image.size) == ("PNG", (2 * 914 + 14, 50 + 2 * (675 + 17 + 35 + 28)))
    first = picture.read_bytes()
    run("view", job, "a")
    assert picture.read_bytes() == first


def test_one_component_and_another_place(job: Path, tmp_path: Path, run: Run) -> None:
    _, out, _ = run("view", job, "a")
    _, every = _table(Path(out.splitlines()[1]))
    code, out, _ = run(
        "view", job, "a.svs", "--component", 2, "--cmap", "magma_r", "--output", tmp_path / "x" / "v.PNG"
    )
    assert (code, out) == (0, f"{tmp_path / 'x' / 'v.PNG'}\n{tmp_path / 'x' / 'v.csv'}\n")
    header, values = _table(tmp_path / "x" / "v.csv")
    assert header == ["x", "y", "component_2"]
    np.testing.assert_array_equal(values[:, 2], every[:, 3])


@pytest.mark.parametrize("named", ["a", "a.svs", "gone/a.svs"])
def test_scores(job: Path, tmp_path: Path, run: Run, named: str) -> None:
    (tmp_path / "scores.csv").write_text("x,y,my/score\n128,0,0.5\n0,0,7\n")
    code, out, err = run("view", job, named, "--scores", tmp_path / "scores.csv", "--column", "my/score")
    picture, table = map(Path, out.splitlines())
    assert code == exit_codes.OK
    assert "18 of 20 patches of a have no score" in err
    assert picture.parent == job / GRID / "views" / "scores" / "my_score"
    header, values = _table(table)
    assert header == ["x", "y", "my/score"]
    assert values.tolist() == [[128, 0, 0.5], [0, 0, 7]]


@pytest.mark.parametrize("name", ["empty", HOSTILE])
def test_empty_slides_and_hostile_names(job: Path, run: Run, name: str) -> None:
    for more in ([], ["--component", 1]):
        code, out, _ = run("view", job, name, *more)
        assert code == exit_codes.OK
        folder = job / GRID / "views" / "features_enc"
        assert (folder / ("component_1" if more else "components") / f"{name}.png").is_file()
        assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "no features of a slide 'none'"),
        (["a", "--component", "0"], "--component 0: features of enc have components 1 to 6"),
        (["a", "--component", "7"], "--component 7: features of enc have components 1 to 6"),
        (["a", "--component", "x"], "invalid int value"),
        (["a", "--grid", "none"], "on grid none"),
        (["a", "--wsi_dir", "/no/such/folder"], "/no/such/folder: the slide folder does not exist"),
        (["a", "--patch_encoder", "uni_v1"], "no patch features of uni_v1"),
        (["a", "--cmap", "virids"], "viridis"),
        (["a", "--column", "x"], "give the file with --scores"),
        (["a", "--scores", "x.csv", "--component", "1"], "leave --component and --patch_encoder out"),
        (["a", "--scores", "none.csv"], "none.csv: these scores cannot be read"),
        (["b", "--scores", "none.csv"], "no coordinates of a slide 'b'"),
        (["a", "--output", "view.jpg"], "name a file that ends in .png"),
    ],
)
def test_wrong_options(job: Path, run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run("view", job, *arguments)
    assert (code, out) == (exit_codes.USAGE, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (job / GRID / "views").exists()


def test_scores_are_never_replaced(job: Path, tmp_path: Path, run: Run) -> None:
    scores = tmp_path / "attention.csv"
    scores.write_text("slide,x,y,score,label\na,0,0,1,tumour\nb,0,0,2,stroma\n")
    before = scores.read_bytes()
    code, out, err = run("view", job, "a", "--scores", scores, "--output", tmp_path / "attention.png")
    assert (code, out, err.count("\n")) == (exit_codes.USAGE, "", 1)
    assert f"{scores}: this file holds the --scores" in err
    assert (scores.read_bytes(), (tmp_path / "attention.png").exists()) == (before, False)
    written = [Path(one) for one in run("view", job, "a", "--scores", scores)[1].splitlines()]
    code, _, err = run("view", job, "a", "--scores", written[1])
    assert (code, "this file holds the --scores" in err) == (exit_codes.USAGE, True)


def test_a_table_that_no_view_wrote_stays_and_one_that_a_view_wrote_is_replaced(
    job: Path, tmp_path: Path, run: Run
) -> None:
    notes, picture = tmp_path / "notes.csv", tmp_path / "notes.png"
    notes.write_text("mine\n")
    code, _, err = run("view", job, "a", "--output", picture)
    assert (code, notes.read_text(), picture.exists()) == (exit_codes.USAGE, "mine\n", False)
    assert f"{notes}: no table that belongs to notes.png" in err
    notes.unlink()
    for component in (1, 2):
        assert run("view", job, "a", "--output", picture, "--component", component)[0] == exit_codes.OK
        assert _table(notes)[0] == ["x", "y", f"component_{component}"]


def test_damaged_features(job: Path, run: Run) -> None:
    path = job / GRID / "features_enc" / "a.h5"
    path.write_bytes(path.read_bytes()[:2000])
    code, _, err = run("view", job, "a")
    assert (code, err.count("\n")) == (exit_codes.USAGE, 1)
    assert f"error: {path}: this HDF5 file is damaged" in err


def test_patches_with_nan_are_left_out(job: Path, run: Run, put_features: Callable[..., Path]) -> None:
    put_features(job, "nan", np.array([[1.0, 2.0], [np.nan, 0], [3, 4], [5, 1]]))
    code, out, err = run("view", job, "nan")
    assert code == exit_codes.OK
    assert "1 patches with NaN or infinity are left out" in err
    assert _table(Path(out.splitlines()[1]))[1].shape == (3, 4)
