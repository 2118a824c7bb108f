"""`trident export`, as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trident import exit_codes
from trident.cli import main
from trident.commands.export import FORMAT_NAMES
from trident.export.formats import FORMATS
from trident.export.journal import JOURNAL_NAME
from trident.store.h5 import write_slide_features
from trident.store.layout import JobLayout

GRID = "20x_128px_0px_overlap"
HOSTILE = "Ünï <b>&\"x' no\udcffutf8"
Run = Callable[..., tuple[int, str, str]]
PACKAGES = {"pt": "torch", "zarr": "zarr", "h5ad": "anndata", "parquet": "pyarrow"}


@pytest.fixture
def run(quiet_process: None, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["export", *(str(one) for one in arguments)])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def job(tmp_path: Path, put_features: Callable[..., Path]) -> Path:
    layout = JobLayout(tmp_path / "job", GRID)
    for name, count in {"a": 3, HOSTILE: 2, "empty": 0}.items():
        put_features(tmp_path / "job", name, np.full((count, 4), count))
        coords = np.zeros((count, 2), np.int64)
        path = layout.slide_features(name, "mean-enc")
        write_slide_features(path, np.ones(4), coords, {}, name=name, savetodir="", encoder="mean-enc", recipe=None)
    return tmp_path / "job"


def test_the_formats_are_those_that_are_written() -> None:
    assert set(FORMAT_NAMES) == {*FORMATS, "parquet"}


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_every_format(job: Path, tmp_path: Path, run: Run, format_name: str) -> None:
    pytest.importorskip(PACKAGES[format_name], reason="the extra `export` is not installed")
    out = tmp_path / "out"
    code, shown, err = run(job, "--format", format_name, "--output", out)
    assert code == exit_codes.OK
    assert "3 slides: 3 exported, 0 were there, 0 failed" in err
    names = sorted(path.name for path in out.iterdir() if path.name != JOURNAL_NAME)
    if format_name == "parquet":
        assert (names, shown) == (["slide_features_mean-enc.parquet"], f"{out / names[0]}\n")
    else:
        suffix = FORMATS[format_name].suffix
        assert (names, shown) == (sorted(f"{name}{suffix}" for name in ("a", HOSTILE, "empty")), f"{out}\n")
    code, _, err = run(job, "--format", format_name, "--output", out)
    assert code == exit_codes.OK
    assert "3 slides: 0 exported, 3 were there, 0 failed" in err
    code, _, err = run(job, "--format", format_name, "--output", out, "--overwrite")
    assert code == exit_codes.OK
    assert "3 slides: 3 exported (3 in place of an earlier file), 0 were there, 0 failed" in err


def test_a_bad_file_is_named_and_the_others_are_exported(job: Path, tmp_path: Path, run: Run) -> None:
    bad = job / GRID / "features_enc" / "bad.h5"
    bad.write_bytes(b"bad")
    code, _, err = run(job, "--format", "pt", "--output", tmp_path / "out")
    assert code == exit_codes.FINISHED_WITH_FAILURES
    assert f"{bad}: this is not an HDF5 file" in err
    assert "4 slides: 3 exported, 0 were there, 1 failed" in err
    assert torch.load(tmp_path / "out" / "empty.pt").shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "csv"], "--format csv: choose one of pt, zarr, h5ad, parquet"),
        (["--format", "pt", "--slide_encoder", "x"], "holds patch features: choose with --patch_encoder"),
        (["--format", "parquet", "--patch_encoder", "x"], "holds slide embeddings: choose with --slide_encoder"),
        (["--format", "pt", "--patch_encoder", "x"], "no patch features of x (there: --grid"),
        (["--format", "pt", "--grid", "x"], "on grid x"),
        ([], "the following arguments are required: --format"),
    ],
)
def test_wrong_options(job: Path, tmp_path: Path, run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(job, "--output", tmp_path / "out", *arguments)
    assert (code, out) == (exit_codes.USAGE, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(job: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "out").touch()
    code, _, err = run(job, "--format", "pt", "--output", tmp_path / "out")
    assert code == exit_codes.USAGE
    assert "error: " in err
    assert "Traceback" not in err
