"""trident/features/slide.py: what a slide encoder is given, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.factory import encoder_factory
from trident.errors import StoreError, WeightsError
from trident.features.slide import embed_slide

FEATURES = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
COORDS = np.arange(18).reshape(9, 2)


class _Recording(SlideEncoder):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__("recording", torch.float16, None)
        self.factor = factor

    def forward(self, batch: Mapping[str, Any], device: torch.device | str = "cpu") -> Tensor:
        self.batch = batch
        features: Tensor = batch["features"]
        return features.half().sum(dim=1) * self.factor


def test_mean() -> None:
    got = embed_slide(FEATURES, COORDS, 512, encoder_factory("mean-uni_v1"), "cpu")
    assert (got.dtype, got.shape) == (np.dtype(np.float32), (4,))
    np.testing.assert_allclose(got, FEATURES.astype(np.float64).mean(axis=0), atol=1e-6)


def test_slide_without_patches() -> None:
    got = embed_slide(FEATURES[:0], COORDS[:0], 512, encoder_factory("mean-uni_v1"), "cpu")
    np.testing.assert_array_equal(got, np.zeros(4, np.float32))


def test_what_the_encoder_is_given() -> None:
    encoder = _Recording()
    got = embed_slide(FEATURES.astype(np.float16), COORDS[:, ::-1], 448.0, encoder, "cpu")  # type: ignore[arg-type]
    assert got.dtype == np.float32
    assert encoder.batch["features"].shape == (1, 9, 4)
    assert encoder.batch["features"].dtype is torch.float32
    assert encoder.batch["coords"].dtype is torch.int64
    assert encoder.batch["coords"][0].tolist() == COORDS[:, ::-1].tolist()
    assert encoder.batch["attributes"] == {"patch_size_level0": 448}
    assert isinstance(encoder.batch["attributes"]["patch_size_level0"], int)
    assert not encoder.training


@pytest.mark.parametrize(
    ("features", "coords"), [(FEATURES, COORDS[:8]), (FEATURES[0], COORDS), (FEATURES, COORDS[:, :1])]
)
def test_features_of_other_coordinates(features: np.ndarray, coords: np.ndarray) -> None:
    with pytest.raises(StoreError, match="do not belong together"):
        embed_slide(features, coords, 512, encoder_factory("mean-uni_v1"), "cpu")


def test_nan() -> None:
    with pytest.raises(WeightsError, match="slide encoder recording gave NaN or infinity for a slide of 9 patches"):
        embed_slide(FEATURES, COORDS, 512, _Recording(float("inf")), "cpu")


@pytest.mark.parametrize(("rows", "value"), [([4], np.nan), ([0, 8], np.inf), ([2, 3, 4], -np.inf)])
def test_features_that_are_not_finite(rows: list[int], value: float) -> None:
    spoilt = FEATURES.copy()
    spoilt[rows, 1] = value
    with pytest.raises(StoreError, match=f"{len(rows)} of 9 patches have NaN or infinity .* in row {rows[0]}"):
        embed_slide(spoilt, COORDS, 512, encoder_factory("mean-uni_v1"), "cpu")


def test_features_that_are_not_finite_in_a_later_block() -> None:
    features, coords = np.zeros((20_000, 2), np.float32), np.zeros((20_000, 2), np.int64)
    features[[17_000, 19_999], 1] = np.nan
    with pytest.raises(StoreError, match=r"2 of 20000 patches .* the first in row 17000"):
        embed_slide(features, coords, 512, encoder_factory("mean-uni_v1"), "cpu")
