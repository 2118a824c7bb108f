"""tutorials/: the scripts run as they are, some in a reduced form, and leave what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trident.wsi import load_wsi

ROOT = Path(__file__).parents[1]


def _run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tutorials" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_train_abmil(tmp_path: Path) -> None:
    done = _run("train_abmil.py", "--out", tmp_path, "--slides", 6, "--epochs", 40)
    assert done.returncode == 0, done.stderr
    shares = {name: float(share) for name, share in re.findall(r"^(\w+) accuracy: ([\d.]+) ", done.stdout, re.M)}
    assert shares.keys() == {"training", "test"}
    assert shares["training"] == 1
    found = re.search(r"dark clusters: ([\d.]+) of all in (\w+), ([\d.]+) of the \d+ with the most", done.stdout)
    assert found is not None
    usual, name, attended = float(found[1]), found[2], float(found[3])
    assert attended > 2 * usual

    assert f"heatmap: {tmp_path / 'heatmap' / name}.png" in done.stdout
    picture = np.asarray(Image.open(tmp_path / "heatmap" / f"{name}.png").convert("RGB")).astype(np.int16)
    with load_wsi(tmp_path / "slides" / f"{name}.svs") as slide:
        plain = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1])).astype(np.int16)
    assert picture.shape == plain.shape
    tinted = np.abs(picture - plain).max(axis=2) > 20
    assert 0.1 < tinted.mean() < 0.9  # tissue has colours, glass has none
    redder = (picture - plain)[..., 0] > (picture - plain)[..., 2]
    assert redder[tinted].any()
    assert not redder[tinted].all()
    assert len(list((tmp_path / "heatmap" / "topk_patches").glob("*.png"))) == 8


def test_cohort_to_embeddings(tmp_path: Path) -> None:
    done = _run("cohort_to_embeddings.py", "--out", tmp_path, "--patients", 3)
    assert done.returncode == 0, done.stderr
    assert "6 slides, 64 numbers each" in done.stdout
    pairs = dict(re.findall(r"^(\w+) is most like (\w+)$", done.stdout, re.M))
    assert len(pairs) == 6
    assert all(name[:-2] == other[:-2] and name != other for name, other in pairs.items())
    assert "of the same patient: 6 of 6" in done.stdout


def test_edit_outlines(tmp_path: Path) -> None:
    done = _run("edit_outlines.py", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = map(int, re.findall(r"^first: (\d+) patches before, (\d+) after$", done.stdout, re.M)[0])
    assert 0 < after < before
    unchanged = re.findall(r"^second: (\d+) patches before, (\d+) after$", done.stdout, re.M)[0]
    assert unchanged[0] == unchanged[1]
    assert "first: redone: coords, patch_features:stain-stats\n" in done.stdout
    assert "second: redone: nothing\n" in done.stdout
    assert "first.svs\tcoords\trun\tits input has changed" in done.stdout
    again = _run("edit_outlines.py", "--out", tmp_path)
    assert (again.returncode, "exists" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("train_abmil.py", ["--slides", 3], "at least 4 slides"),
        ("cohort_to_embeddings.py", ["--patients", 1], "at least 2 patients"),
    ],
)
def test_too_small_a_cohort_is_refused(tmp_path: Path, script: str, arguments: list[object], says: str) -> None:
    done = _run(script, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "out").exists()
