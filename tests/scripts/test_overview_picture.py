"""scripts/overview_picture.py: panels side by side, and the picture of README.md is one of its kind."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("overview_picture", ROOT / "scripts" / "overview_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_panels_stand_side_by_side_over_their_captions(script: ModuleType, tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = []
    for index, colour in enumerate(colours):
        Image.new("RGB", (1000, 750), colour).save(tmp_path / f"{index}.png")
        pictures.append((f"caption {index}", tmp_path / f"{index}.png"))
    whole = np.asarray(script.compose(pictures))
    width_px, height_px = script.PANEL_PX
    assert whole.shape == (height_px + script.CAPTION_PX, 3 * width_px + 2 * script.GAP_PX, 3)
    for index, colour in enumerate(colours):
        x = index * (width_px + script.GAP_PX)
        assert (whole[:height_px, x : x + width_px] == colour).all()
        caption = whole[height_px:, x : x + width_px]
        assert caption.min() < 100
        assert caption.max() == 255


def test_the_picture_in_the_repository_is_small_and_of_this_size(script: ModuleType) -> None:
    with Image.open(script.PICTURE) as picture:
        width_px, height_px = script.PANEL_PX
        assert picture.size == (3 * width_px + 2 * script.GAP_PX, height_px + script.CAPTION_PX)
    assert script.PICTURE.stat().st_size < 200_000
