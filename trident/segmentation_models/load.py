"""Tissue segmenters under their familiar import path; the code is in `trident.segmentation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trident.segmentation import registry

if TYPE_CHECKING:
    from trident.segmentation.base import Segmenter

__all__ = ["segmentation_model_factory"]


def segmentation_model_factory(
    model_name: str, confidence_thresh: float = 0.5, freeze: bool = True, **kwargs: Any
) -> Segmenter:
    """Make a tissue segmenter.

    Args:
        model_name: `hest`, `grandqc` or `otsu`; not every version has all of them.
        confidence_thresh: probability from which a pixel is tissue, 0 to 1; `otsu` has no use for it.
        freeze: accepted for compatibility; a segmenter is only ever used for inference.
        kwargs: `device` and `batch_size` of a neural segmenter.

    Raises:
        SettingsError: an unknown name or option, or a value out of its range.
        NotAvailableError: this version does not have the segmenter.
    """
    return registry.segmentation_model_factory(model_name, confidence_thresh=confidence_thresh, **kwargs)
