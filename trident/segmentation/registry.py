"""The tissue segmenters by name. Light to import: what a segmenter needs is imported when it is made."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from trident.errors import NotAvailableError, SettingsError

if TYPE_CHECKING:
    from shapely.geometry import Polygon

    from trident.segmentation.base import Progress, Segmenter
    from trident.slides.base import Slide

SEGMENTER_NAMES = ("hest", "grandqc", "otsu")
"""Every name that `--segmenter` knows."""
AVAILABLE_SEGMENTERS = ("otsu",)


def check_available(name: str) -> None:
    """Complain about a segmenter that cannot be made.

    Raises:
        SettingsError: the name is unknown.
        NotAvailableError: the name is known, but this version does not have the segmenter.
    """
    if name not in SEGMENTER_NAMES:
        close = difflib.get_close_matches(name, SEGMENTER_NAMES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SettingsError(f"--segmenter {name} is unknown{hint} Choose one of: {', '.join(SEGMENTER_NAMES)}")
    if name not in AVAILABLE_SEGMENTERS:
        raise NotAvailableError(f"segmenter {name} is not available in this version; use --segmenter otsu")


def segmentation_model_factory(
    name: str, *, confidence_thresh: float = 0.5, device: str = "cpu", batch_size: int = 16, **options: object
) -> Segmenter:
    """Make a segmenter.

    Args:
        name: one of `SEGMENTER_NAMES`.
        confidence_thresh: probability from which a pixel is tissue, 0 to 1; `otsu` has no use for it.
        device: where a neural segmenter runs, e.g. `cuda:0`; `otsu` has no use for it.
        batch_size: tiles a neural segmenter looks at together; `otsu` has no use for it.
        options: none so far.

    Raises:
        SettingsError: an unknown name or option, or a value out of its range.
        NotAvailableError: this version does not have the segmenter.
    """
    check_available(name)
    if options:
        raise SettingsError(f"segmenter {name} does not take: {', '.join(sorted(options))}")
    if not 0.0 <= confidence_thresh <= 1.0:
        raise SettingsError(f"--seg_conf_thresh is {confidence_thresh}; it must lie between 0 and 1")
    if batch_size < 1:
        raise SettingsError(f"--seg_batch_size is {batch_size}; it must be at least 1")

    from trident.segmentation.otsu import OtsuSegmenter

    return OtsuSegmenter()


def segment_tissue(
    slide: Slide, segmenter: Segmenter, *, keep_holes: bool = False, progress: Progress | None = None
) -> list[Polygon]:
    """Outlines of a slide's tissue in level-0 pixels; empty where there is none.

    Args:
        slide: to look at.
        segmenter: finds the mask.
        keep_holes: cut holes out of the outlines.
        progress: called with (parts done, their total).

    Raises:
        MissingMppError: the slide's resolution is unknown.
        UnreadableSlideError: a region does not decode.
    """
    from trident.segmentation.contours import mask_to_polygons

    return mask_to_polygons(segmenter.segment(slide, progress), keep_holes=keep_holes, slide_size=slide.dimensions)
