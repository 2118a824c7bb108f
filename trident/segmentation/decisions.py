"""From a network's class probabilities to what is kept of a tile. Imports torch: import this module lazily.

Each function takes probabilities (B, classes, H, W) and gives bool (B, H, W), True on what is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from trident.segmentation.spec import GRANDQC, HEST, SegmentationModelSpec

Decision = Callable[[Tensor], Tensor]

_HEST_TISSUE = 1
_GRANDQC_TISSUE = 0
_CLEAN_UP_TO = 1
"""The artifact model's classes: 1 is clean tissue, and 0, which stands for no artifact either, is left alone."""
_PEN = 4
_BACKGROUND = 7
"""The others are 2 fold, 3 dark spot or foreign body, 5 edge or air bubble, 6 out of focus."""


def decision_of(spec: SegmentationModelSpec, *, confidence_thresh: float, remove_penmarks_only: bool) -> Decision:
    """The decision that goes with a network.

    Args:
        spec: the network.
        confidence_thresh: probability from which a pixel is tissue; the artifact model has no use for it.
        remove_penmarks_only: of the artifact model's classes, remove pen marks and background alone.
    """
    if spec.name == HEST.name:
        return lambda probabilities: likely_tissue(probabilities, confidence_thresh)
    if spec.name == GRANDQC.name:
        return lambda probabilities: confident_tissue(probabilities, confidence_thresh)
    return without_pen if remove_penmarks_only else without_artifacts


def likely_tissue(probabilities: Tensor, threshold: float) -> Tensor:
    """`hest`: the probability of class 1 is over the threshold."""
    return probabilities[:, _HEST_TISSUE] > threshold


def confident_tissue(probabilities: Tensor, threshold: float) -> Tensor:
    """`grandqc`: class 0 is the likeliest, and its probability reaches the threshold."""
    highest, likeliest = probabilities.max(dim=1)
    return (likeliest == _GRANDQC_TISSUE) & (highest >= threshold)


def without_artifacts(probabilities: Tensor) -> Tensor:
    """`grandqc_artifact`: everything but clean tissue is removed."""
    return probabilities.argmax(dim=1) <= _CLEAN_UP_TO


def without_pen(probabilities: Tensor) -> Tensor:
    """`grandqc_artifact`: pen marks and background are removed, other artifacts stay."""
    likeliest = probabilities.argmax(dim=1)
    return (likeliest != _PEN) & (likeliest != _BACKGROUND)
