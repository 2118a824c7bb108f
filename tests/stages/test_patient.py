"""Patient vectors against numpy, and when they are made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trident.encoders.slide.mean import MeanSlideEncoder
from trident.errors import StageNotRequestedError, StoreError
from trident.stages.base import Condition, StageContext, run_stage
from trident.stages.patient import PATIENT_FEATURES, PatientStage, Pooling, side_by_side
from trident.store import h5
from trident.store.layout import JobLayout

ENCODER = "mean-stain-stats"


def _stage(job_dir: Path, slides: tuple[str, ...], pooling: Pooling = "mean") -> PatientStage:
    context = StageContext(layout=JobLayout(job_dir, "grid"), made=frozenset({PATIENT_FEATURES}))
    return PatientStage(
        context,
        "p1",
        slides,
        pooling=pooling,
        slide_encoder=ENCODER,
        patch_encoder="stain-stats",
        load_encoder=lambda: MeanSlideEncoder(ENCODER),
    )


def _slide(job_dir: Path, name: str, n_patches: int, *, dim: int = 8, side_px: int = 256) -> np.ndarray:
    """Features of one slide and their mean as its embedding; returns the features."""
    layout = JobLayout(job_dir, "grid")
    rng = np.random.default_rng(n_patches)
    features = rng.standard_normal((n_patches, dim)).astype(np.float32)
    coords = rng.integers(0, 40, (n_patches, 2)) * side_px
    attributes = {"patch_size_level0": side_px}
    with h5.FeatureFileWriter(
        layout.patch_features(name, "stain-stats"),
        n_rows=n_patches,
        dim=dim,
        coords=coords,
        coords_attributes=attributes,
        encoder="stain-stats",
        name=name,
        savetodir="",
        recipe=None,
    ) as writer:
        writer.append(features)
    mean = features.mean(axis=0) if n_patches else np.zeros(dim, np.float32)
    h5.write_slide_features(
        layout.slide_features(name, ENCODER),
        mean,
        coords,
        attributes,
        name=name,
        savetodir="",
        encoder=ENCODER,
        recipe=None,
    )
    return features


def _vector(stage: PatientStage) -> np.ndarray:
    return h5.read_slide_features(stage.output).features


def test_mean_of_the_slides_that_have_patches(tmp_path: Path) -> None:
    features = [_slide(tmp_path, name, n) for name, n in (("a", 5), ("b", 9), ("empty", 0))]
    stage = _stage(tmp_path, ("a", "b", "empty"))
    result = run_stage(stage)
    expected = (features[0].mean(axis=0) + features[1].mean(axis=0)) / 2
    np.testing.assert_allclose(_vector(stage), expected, rtol=1e-6, atol=1e-7)
    assert "2 of 3 slides; the others have no patches" in result.message


def test_early_fusion_weighs_patches_alike(tmp_path: Path) -> None:
    features = [_slide(tmp_path, name, n) for name, n in (("a", 5), ("b", 9))]
    stage = _stage(tmp_path, ("a", "b"), "early")
    run_stage(stage)
    np.testing.assert_allclose(_vector(stage), np.concatenate(features).mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "early"])
def test_a_patient_without_patches_gets_zeros(tmp_path: Path, pooling: Pooling) -> None:
    _slide(tmp_path, "empty", 0)
    stage = _stage(tmp_path, ("empty",), pooling)
    run_stage(stage)
    assert not _vector(stage).any()


def test_it_is_made_anew_when_a_slide_or_the_list_changes(tmp_path: Path) -> None:
    for name, n_patches in (("a", 5), ("b", 9)):
        _slide(tmp_path, name, n_patches)
    run_stage(_stage(tmp_path, ("a", "b")))
    assert _stage(tmp_path, ("a", "b")).status().condition is Condition.DONE
    assert _stage(tmp_path, ("a",)).status().condition is Condition.STALE
    assert _stage(tmp_path, ("a", "b"), "early").status().condition is Condition.CONFLICT
    _slide(tmp_path, "b", 11)
    assert _stage(tmp_path, ("a", "b")).status().condition is Condition.STALE


def test_missing_slides_are_named(tmp_path: Path) -> None:
    _slide(tmp_path, "a", 5)
    with pytest.raises(StageNotRequestedError, match=r"nowhere\.h5: missing \(1 of 2 slides of patient p1\)"):
        run_stage(_stage(tmp_path, ("a", "nowhere")))
    assert not _stage(tmp_path, ("a", "nowhere")).output.exists()


def test_early_fusion_needs_one_patch_size(tmp_path: Path) -> None:
    _slide(tmp_path, "a", 5)
    _slide(tmp_path, "b", 9, side_px=512)
    with pytest.raises(StoreError, match=r"\[256, 512\] level-0 px"):
        run_stage(_stage(tmp_path, ("a", "b"), "early"))


def test_slides_stand_side_by_side_on_one_grid() -> None:
    first = np.array([[1000, 0], [1512, 512]])
    second = np.array([[5000, 256], [5256, 0]])
    placed = side_by_side([first, np.empty((0, 2), np.int64), second], 256)
    a, b = placed[:2], placed[2:]
    assert b[:, 0].min() - (a[:, 0].max() + 256) >= 256  # one patch between them, at least
    assert (np.diff(a, axis=0) == np.diff(first, axis=0)).all()
    assert (np.diff(b, axis=0) == np.diff(second, axis=0)).all()
    assert ((placed[:, 0] - np.concatenate([first, second])[:, 0]) % 256 == 0).all()
    assert (placed[:, 1] == np.concatenate([first, second])[:, 1]).all()
