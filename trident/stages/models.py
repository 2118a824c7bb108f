"""Models of the running process: each is loaded once and serves all slides."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trident.encoders.patch.base import PatchEncoder
    from trident.encoders.slide.base import SlideEncoder
    from trident.segmentation.base import Segmenter


@lru_cache(maxsize=1)
def segmenter(name: str, confidence: float, device: str, batch_size: int) -> Segmenter:
    """The tissue segmenter, on its device."""
    from trident.segmentation.registry import segmentation_model_factory

    return segmentation_model_factory(name, confidence_thresh=confidence, device=device, batch_size=batch_size)


@lru_cache(maxsize=1)
def patch_encoder(name: str, weights_path: Path | None, img_size: int | None, device: str) -> PatchEncoder:
    """The patch encoder, in evaluation mode and on its device."""
    from trident.encoders.patch.factory import encoder_factory

    return encoder_factory(name, weights_path=weights_path, img_size=img_size).eval().to(device)


@lru_cache(maxsize=1)
def slide_encoder(name: str, device: str) -> SlideEncoder:
    """The slide encoder, in evaluation mode and on its device."""
    from trident.encoders.slide.factory import encoder_factory

    return encoder_factory(name).eval().to(device)
