"""docs/python.md: its snippets run, one after the other, and leave what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trident.store import h5

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(snippets) == 6
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert names["tile"].shape == (64, 64, 3)
    assert len(list(tmp_path.glob("out/grid/patch_images/demo/*.png"))) == 10
    grid = Path("job", "20x_128px_0px_overlap")
    single, whole = (
        h5.read_features(path / "features_stain-stats" / "demo.h5") for path in (Path("out", "grid"), grid)
    )
    assert single.features.tolist() == whole.features.tolist()
    assert h5.read_features(grid / "features_my-model" / "demo.h5").features.shape == (len(whole.features), 8)
    assert h5.read_slide_features(grid / "slide_features_mean-stain-stats" / "demo.h5").features.ndim == 1
