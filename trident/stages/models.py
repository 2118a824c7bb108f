"""Models of the running process: each is loaded once and serves all slides."""

from __future__ import annotations

import gc
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trident.encoders.patch.base import PatchEncoder
    from trident.encoders.slide.base import SlideEncoder
    from trident.segmentation.base import Segmenter
    from trident.segmentation.neural import NeuralSegmenter


@lru_cache(maxsize=1)
def segmenter(name: str, confidence: float, device: str, batch_size: int, max_workers: int | None) -> Segmenter:
    """The tissue segmenter, on its device."""
    from trident.segmentation.registry import segmentation_model_factory

    return segmentation_model_factory(
        name, confidence_thresh=confidence, device=device, batch_size=batch_size, max_workers=max_workers
    )


@lru_cache(maxsize=1)
def artifact_remover(penmarks_only: bool, device: str, batch_size: int, max_workers: int | None) -> NeuralSegmenter:
    """The model that removes artifacts from tissue, on its device."""
    from trident.segmentation import registry

    return registry.artifact_remover(
        penmarks_only=penmarks_only, device=device, batch_size=batch_size, max_workers=max_workers
    )


@lru_cache(maxsize=1)
def patch_encoder(name: str, weights_path: Path | None, img_size: int | None, device: str) -> PatchEncoder:
    """The patch encoder, in evaluation mode and on its device, in the place of a slide encoder."""
    from trident.encoders.patch.factory import encoder_factory

    _release(slide_encoder)
    return encoder_factory(name, weights_path=weights_path, img_size=img_size).eval().to(device)


@lru_cache(maxsize=1)
def slide_encoder(name: str, device: str, trust_remote_code: bool) -> SlideEncoder:
    """The slide encoder, in evaluation mode and on its device. One with weights takes the patch encoder's place."""
    from trident.encoders.slide.factory import encoder_factory
    from trident.encoders.slide.registry import spec

    declared = spec(name)
    if declared.filenames:
        _release(patch_encoder)
    options: dict[str, Any] = (
        {"trust_remote_code": trust_remote_code} if "trust_remote_code" in declared.options else {}
    )
    return encoder_factory(name, **options).eval().to(device)


def _release(loader: _Cached) -> None:
    """Let go of a model, so that two large ones need not fit into memory together."""
    if not loader.cache_info().currsize:
        return
    import torch

    loader.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Cached(Protocol):
    """What `lru_cache` makes of a function."""

    def cache_info(self) -> Any: ...

    def cache_clear(self) -> None: ...
