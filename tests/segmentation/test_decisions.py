"""The decisions on probabilities that lie at, above and below each threshold."""

from __future__ import annotations

import pytest
import torch

from trident.segmentation import decisions
from trident.segmentation.spec import GRANDQC, GRANDQC_ARTIFACT, HEST, SegmentationModelSpec


def _decide(spec: SegmentationModelSpec, pixels: list[list[float]], threshold: float = 0.5, pen: bool = False) -> list:
    """One row of pixels, each given by its class probabilities."""
    probabilities = torch.tensor(pixels, dtype=torch.float32).T[None, :, None, :]
    decision = decisions.decision_of(spec, confidence_thresh=threshold, remove_penmarks_only=pen)
    kept = decision(probabilities)
    assert kept.shape == (1, 1, len(pixels))
    assert kept.dtype == torch.bool
    return kept[0, 0].tolist()


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        (0.5, [False, False, True, True]),
        (0.25, [False, True, True, True]),  # 0.25 itself is not over the threshold
        (0.75, [False, False, False, True]),
        (1.0, [False, False, False, False]),
    ],
)
def test_hest_keeps_what_is_over_the_threshold(threshold: float, kept: list[bool]) -> None:
    assert _decide(HEST, [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]], threshold) == kept


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        (0.5, [True, True, False, False]),
        (0.75, [True, True, False, False]),  # 0.75 itself reaches it
        (0.8, [True, False, False, False]),
        (0.1, [True, True, False, False]),  # the likeliest class decides, however low the threshold
    ],
)
def test_grandqc_keeps_class_0_where_it_is_sure(threshold: float, kept: list[bool]) -> None:
    assert _decide(GRANDQC, [[0.875, 0.125], [0.75, 0.25], [0.375, 0.625], [0.0, 1.0]], threshold) == kept


@pytest.mark.parametrize(
    ("pen", "kept_classes"),
    [(False, {0, 1}), (True, {0, 1, 2, 3, 5, 6})],
)
def test_artifact_classes(pen: bool, kept_classes: set[int]) -> None:
    pixels = [[0.3 if other == likeliest else 0.1 for other in range(8)] for likeliest in range(8)]
    for threshold in (0.0, 0.5, 1.0):  # which plays no part
        kept = _decide(GRANDQC_ARTIFACT, pixels, threshold, pen)
        assert {index for index, keep in enumerate(kept) if keep} == kept_classes
