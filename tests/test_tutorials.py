"""tutorials/: the script runs as it is, in a reduced form, and leaves what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from trident.wsi import load_wsi

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tutorials" / "train_abmil.py"


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_train_abmil(tmp_path: Path) -> None:
    done = _run("--out", tmp_path, "--slides", 6, "--epochs", 40)
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


def test_too_few_slides_are_refused(tmp_path: Path) -> None:
    done = _run("--out", tmp_path / "out", "--slides", 3)
    assert done.returncode == 2
    assert "at least 4 slides" in done.stderr
    assert not (tmp_path / "out").exists()
