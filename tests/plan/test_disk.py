"""Bytes of outputs, against files that are really written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES
from trident.plan import disk
from trident.store import h5
from trident.store.recipes import Recipe

_ATTRIBUTES = {"patch_size": 256, "patch_size_level0": 512, "name": "slide", "savetodir": "out/20x_256px_0px_overlap"}
_RECIPE = Recipe("patch_features:x", {"patch_encoder": "x", "precision": "auto"}, {"coords": "sha256:" + "0" * 64})


@pytest.mark.parametrize(("n_patches", "dim"), [(0, 64), (1, 1024), (300, 64), (5000, 384), (3000, 1536), (257, 1024)])
def test_features(n_patches: int, dim: int, tmp_path: Path) -> None:
    path = tmp_path / "slide.h5"
    with h5.FeatureFileWriter(
        path,
        n_rows=n_patches,
        dim=dim,
        coords=np.zeros((n_patches, 2), np.int64),
        coords_attributes=_ATTRIBUTES,
        encoder="x",
        name="slide",
        savetodir="out",
        recipe=_RECIPE,
    ) as file:
        if n_patches:
            file.append(np.ones((n_patches, dim), np.float32))
    assert disk.features_bytes(n_patches, dim) == pytest.approx(path.stat().st_size, rel=0.02, abs=8192)


@pytest.mark.parametrize("n_patches", [0, 1, 50_000])
def test_coords_and_embedding(n_patches: int, tmp_path: Path) -> None:
    coords = np.zeros((n_patches, 2), np.int64)
    h5.write_coords(tmp_path / "c.h5", coords, _ATTRIBUTES, _RECIPE)
    names = {"name": "slide", "savetodir": "out", "encoder": "x"}
    h5.write_slide_features(tmp_path / "s.h5", np.ones(768), coords, _ATTRIBUTES, **names, recipe=_RECIPE)
    assert disk.coords_bytes(n_patches, 0) == pytest.approx((tmp_path / "c.h5").stat().st_size, rel=0.02, abs=8192)
    assert disk.embedding_bytes(n_patches, 768) == pytest.approx((tmp_path / "s.h5").stat().st_size, rel=0.02, abs=8192)


@pytest.mark.parametrize(
    ("kind", "dim", "noted", "expected"),
    [
        (SEGMENTATION, None, None, disk.OUTLINE_BYTES),
        (SEGMENTATION, None, 1234.4, 1234),
        (COORDS, None, 99.0, disk.coords_bytes(10)),
        (PATCH_FEATURES, 64, None, disk.features_bytes(10, 64)),
        (PATCH_FEATURES, None, None, None),
        (SLIDE_FEATURES, 64, None, disk.embedding_bytes(10, 64)),
    ],
)
def test_stage(kind: str, dim: int | None, noted: float | None, expected: int | None) -> None:
    assert disk.stage_bytes(kind, 10, dim, noted) == expected


@pytest.mark.parametrize(("limit", "count"), [(0, 100), (7, 7), (1000, 100)])
def test_images(limit: int, count: int) -> None:
    assert disk.images_bytes(100, limit, 256, "png") == round(count * 256 * 256 * 3 * 0.6)
    assert disk.images_bytes(100, limit, 256, "jpg") < disk.images_bytes(100, limit, 256, "png") / 2


def test_free_space_and_rights_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert disk.free_bytes(tmp_path / "a" / "b") == pytest.approx(disk.free_bytes(tmp_path), rel=0.1)
    assert disk.is_writable(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    assert not disk.is_writable(tmp_path / "file" / "b")
