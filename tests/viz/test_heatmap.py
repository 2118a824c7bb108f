"""trident/viz/heatmap.py: where the colours lie, what they are, and what is written beside them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trident.demo.slide import draw_demo_slide
from trident.errors import SettingsError
from trident.slides.registry import open_slide
from trident.viz import heatmap
from trident.viz.colormaps import color_table
from trident.viz.heatmap import visualize_heatmap

COOLWARM = color_table("coolwarm")


class _Pyramid:
    """A slide of one random picture, halved and quartered by taking every second and fourth pixel."""

    def __init__(self, width_px: int = 640, height_px: int = 480, levels: int = 3) -> None:
        self.image = np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
        self.level_downsamples = [2.0**level for level in range(levels)]
        self.level_dimensions = [(width_px >> level, height_px >> level) for level in range(levels)]
        self.magnification = 40

    def level(self, level: int) -> np.ndarray:
        return self.image[:: 1 << level, :: 1 << level]

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        x, y = (math.floor(value / self.level_downsamples[level]) for value in location)
        region = np.zeros((size[1], size[0], 3), np.uint8)
        there = self.level(level)[max(0, y) : y + size[1], max(0, x) : x + size[0]]
        region[max(0, -y) :, max(0, -x) :][: there.shape[0], : there.shape[1]] = there
        return region


@pytest.fixture
def slide() -> _Pyramid:
    return _Pyramid()


def _picture(path: str) -> np.ndarray:
    return np.array(Image.open(path))


def _tinted(slide: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return 0.6 * slide.astype(float) + 0.4 * colour.astype(float)


def test_picture(slide: _Pyramid, tmp_path: Path) -> None:
    coords = np.array([[0, 0], [128, 0], [256, 192]])
    path = visualize_heatmap(slide, [0.0, 0.5, 1.0], coords, 128, normalize=False, output_dir=tmp_path / "new")
    assert path == str(tmp_path / "new" / "heatmap.png")
    got, plain = _picture(path), slide.level(2)
    assert got.shape == (120, 160, 3)
    wanted = plain.astype(float)
    for (x, y), index in zip(coords // 4, (0, 128, 255), strict=True):
        wanted[y : y + 32, x : x + 32] = _tinted(plain[y : y + 32, x : x + 32], COOLWARM[index])
    assert np.abs(got - wanted).max() <= 0.5


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"vis_level": 0}, (640, 480)),
        ({"vis_level": 1}, (320, 240)),
        ({"vis_level": 9}, (160, 120)),
        ({"vis_mag": 10}, (160, 120)),
        ({"vis_mag": 12.5, "vis_level": 0}, (200, 150)),
        ({"vis_mag": 80}, (640, 480)),
    ],
)
def test_size(slide: _Pyramid, options: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    path = visualize_heatmap(slide, [1.0], [[320, 240]], 320, output_dir=tmp_path, overlay_only=True, **options)
    got = _picture(path)
    assert got.shape == (size[1], size[0], 4)
    covered = np.argwhere(got[..., 3] == 255)
    assert covered.min(axis=0).tolist() == [size[1] // 2, size[0] // 2]
    # The lower right quarter, as far as the slide goes: the patch is 320 px high, and 240 px are left.
    assert len(covered) == (size[1] // 2) * (size[0] // 2)


def test_a_picture_without_end_is_shrunk(
    slide: _Pyramid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heatmap, "MAX_SIDE_PX", 100)
    got = _picture(visualize_heatmap(slide, [1.0], [[0, 0]], 64, vis_level=0, output_dir=tmp_path))
    assert got.shape == (75, 100, 3)
    assert "100 x 75 px instead of 640 x 480 px" in caplog.text


def test_overlapping_patches_show_their_mean(slide: _Pyramid, tmp_path: Path) -> None:
    path = visualize_heatmap(
        slide,
        [0.0, 1.0, 0.5],
        [[0, 0], [64, 0], [96, 64]],
        128,
        0,
        "gray",
        False,
        output_dir=tmp_path,
        overlay_only=True,
    )
    got = _picture(path)
    assert got[0, [0, 63, 64, 127, 128, 191, 192], 0].tolist() == [0, 0, 128, 128, 255, 255, 0]
    assert got[0, [0, 191, 192], 3].tolist() == [255, 255, 0]
    assert got[100, [96, 127, 128, 200], 0].tolist() == [128, 128, 191, 128]  # three, three, two, one patch


def test_ranks(slide: _Pyramid, tmp_path: Path) -> None:
    scores = np.array([-3.0, 1e6, 0.2, 0.2])
    coords = [[0, 0], [128, 0], [256, 0], [384, 0]]
    path = visualize_heatmap(slide, scores, coords, 128, 0, "gray", output_dir=tmp_path, overlay_only=True)
    # Shares 1/4, 4/4, and 2.5/4 for the two that share ranks 2 and 3.
    assert _picture(path)[5, [5, 130, 260, 390], 0].tolist() == [64, 255, 159, 159]


def test_scores_beyond_the_range_get_the_colour_at_the_end(slide: _Pyramid, tmp_path: Path) -> None:
    path = visualize_heatmap(
        slide, [-7, 7], [[0, 0], [64, 0]], 64, 0, "jet", False, output_dir=tmp_path, overlay_only=True
    )
    got = _picture(path)[0, [0, 64], :3]
    np.testing.assert_array_equal(got, color_table("jet")[[0, 255]])


def test_patches_over_the_edge(slide: _Pyramid, tmp_path: Path) -> None:
    coords = [[-64, -64], [600, 440], [5000, 5000], [-500, 0]]
    path = visualize_heatmap(slide, [1.0] * 4, coords, 128, 0, output_dir=tmp_path, overlay_only=True)
    covered = _picture(path)[..., 3] == 255
    wanted = np.zeros((480, 640), bool)
    wanted[:64, :64] = wanted[440:, 600:] = True
    np.testing.assert_array_equal(covered, wanted)


def test_patches_smaller_than_a_pixel_still_show(slide: _Pyramid, tmp_path: Path) -> None:
    path = visualize_heatmap(slide, [1.0], [[400, 200]], 1, 2, output_dir=tmp_path, overlay_only=True)
    assert np.argwhere(_picture(path)[..., 3]).tolist() == [[50, 100]]


def test_neighbours_leave_no_gap_where_sizes_are_odd(tmp_path: Path) -> None:
    slide = _Pyramid(701, 503)
    coords = [[x, y] for y in range(0, 503, 37) for x in range(0, 701, 37)]
    path = visualize_heatmap(slide, np.ones(len(coords)), coords, 37, 2, output_dir=tmp_path, overlay_only=True)
    assert (_picture(path)[..., 3] == 255).all()


@pytest.mark.parametrize("scores", [torch.zeros(1, 1, 2, requires_grad=True), torch.zeros(2, dtype=torch.bfloat16)])
def test_tensors(slide: _Pyramid, scores: torch.Tensor, tmp_path: Path) -> None:
    coords = torch.tensor([[[0, 0], [64, 0]]])
    plain = visualize_heatmap(slide, [0, 0], coords.numpy()[0], 64, output_dir=tmp_path, filename="a.png")
    got = visualize_heatmap(slide, scores, coords, 64.0, output_dir=tmp_path, filename="b.png")
    np.testing.assert_array_equal(_picture(got), _picture(plain))


def test_colour_map_as_a_function(slide: _Pyramid, tmp_path: Path) -> None:
    def reds(values: np.ndarray) -> np.ndarray:
        return np.stack([values, values * 0, values * 0, values * 0 + 1], axis=-1)

    path = visualize_heatmap(slide, [0.4], [[0, 0]], 64, 0, reds, False, output_dir=tmp_path, overlay_only=True)
    assert _picture(path)[0, 0].tolist() == [102, 0, 0, 255]


def test_no_patches(slide: _Pyramid, tmp_path: Path) -> None:
    path = visualize_heatmap(slide, [], np.empty((0, 2)), 128, num_top_patches_to_save=3, output_dir=tmp_path)
    np.testing.assert_array_equal(_picture(path), slide.level(2))
    assert [file.name for file in tmp_path.iterdir()] == ["heatmap.png"]


def test_jpeg_has_a_white_ground(slide: _Pyramid, tmp_path: Path) -> None:
    path = visualize_heatmap(slide, [1.0], [[0, 0]], 320, output_dir=tmp_path, overlay_only=True, filename="only.jpg")
    got = _picture(path)
    assert got.shape == (120, 160, 3)
    assert got[60:, 100:].min() > 250


def test_top_patches(slide: _Pyramid, tmp_path: Path) -> None:
    scores = [0.1, 0.9, 0.9, -0.5, 0.3]
    coords = [[0, 0], [64, 0], [600, 450], [64, 64], [128, 64]]
    visualize_heatmap(slide, scores, coords, 64, num_top_patches_to_save=3, output_dir=tmp_path)
    files = sorted((tmp_path / "topk_patches").iterdir())
    assert [file.name for file in files] == [
        "top_001_x64_y0_score_0.9000.png",
        "top_002_x600_y450_score_0.9000.png",
        "top_003_x128_y64_score_0.3000.png",
    ]
    np.testing.assert_array_equal(_picture(str(files[0])), slide.image[:64, 64:128])
    beyond = np.zeros((64, 64, 3), np.uint8)
    beyond[:30, :40] = slide.image[450:, 600:]
    np.testing.assert_array_equal(_picture(str(files[1])), beyond)


@pytest.mark.parametrize("opened", ["reader", "wsi"])
def test_real_slide(opened: str, tmp_path: Path) -> None:
    path = tmp_path / "demo.svs"
    draw_demo_slide(path, seed=1, width_px=1024, height_px=768)
    from trident.wsi import WSI

    with open_slide(path) if opened == "reader" else WSI(path) as slide:
        size = slide.level_dimensions[-1]
        got = _picture(
            visualize_heatmap(slide, [0.0, 1.0], [[0, 0], [512, 256]], 256, output_dir=tmp_path, vis_level=9)
        )
        plain = np.asarray(slide.read_region((0, 0), len(slide.level_dimensions) - 1, size))[..., :3]
    assert got.shape == plain.shape == (size[1], size[0], 3)
    scale = size[0] / 1024
    inside = np.zeros(plain.shape[:2], bool)
    for x, y in ((0, 0), (512, 256)):
        far = round((x + 256) * scale), round((y + 256) * scale)
        inside[round(y * scale) : far[1], round(x * scale) : far[0]] = True
    assert (got == plain)[~inside].all()
    assert (got != plain).any(axis=2)[inside].mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scores": [0.1, 0.2, 0.3]}, r"scores of shape \(3,\) and coordinates of shape \(2, 2\) do not belong"),
        ({"scores": [[0.1, 0.2], [0.3, 0.4]]}, r"scores of shape \(2, 2\)"),
        ({"scores": [[0.1], [0.2]], "coords": [[0, 0, 0], [1, 1, 1]]}, r"coordinates of shape \(2, 3\)"),
        ({"scores": [0.1, 0.2], "coords": [0, 0, 1, 1]}, r"coordinates of shape \(4,\)"),
        ({"scores": []}, r"scores of shape \(0,\)"),
        ({"scores": [0.1, float("nan")]}, "1 of the scores and coordinates are NaN or infinite"),
        ({"coords": [[0, 0], [float("inf"), 0]]}, "1 of the scores"),
        ({"scores": ["a", "b"]}, "must be arrays of numbers"),
        ({"patch_size_level0": 0}, "patch_size_level0 0 is not a positive number"),
        ({"patch_size_level0": float("nan")}, "patch_size_level0 nan"),
        ({"vis_level": -1}, "vis_level -1 is no pyramid level"),
        ({"vis_mag": 0.0}, "vis_mag 0.0 cannot be used with a slide of magnification 40"),
        ({"cmap": "warm"}, "unknown colour map 'warm'"),
        ({"filename": "heatmap.gif"}, r"'heatmap.gif' is not a file name that ends in \.png"),
        ({"filename": "a/heatmap.png"}, "is not a file name"),
    ],
)
def test_refused(slide: _Pyramid, changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"scores": [0.1, 0.2], "coords": [[0, 0], [64, 0]], "patch_size_level0": 64, **changes}
    with pytest.raises(SettingsError, match=expected):
        visualize_heatmap(slide, output_dir=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()
