"""Models of the running process: each is loaded once and serves all slides."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from trident.encoders.patch.base import PatchEncoder
    from trident.encoders.slide.base import SlideEncoder
    from trident.segmentation.base import Segmenter
    from trident.segmentation.neural import NeuralSegmenter


Model = TypeVar("Model")


class _Loaded(Generic[Model]):
    """A function that loads a model: what it gave last is kept, and of two threads that ask at once one loads.

    A job with several encoders keeps as many: `at_once` in a call says how many models its job needs together.
    """

    _loading = threading.RLock()

    def __init__(self, load: Callable[..., Model]) -> None:
        self._load = load
        self._kept: dict[tuple[Any, ...], Model] = {}
        self.__doc__ = load.__doc__

    def __call__(self, *arguments: Any, at_once: int = 1) -> Model:
        with self._loading:
            if arguments in self._kept:
                self._kept[arguments] = self._kept.pop(arguments)  # the one used last goes last
            else:
                while len(self._kept) >= at_once:  # before the new one is loaded: both need not fit into memory
                    del self._kept[next(iter(self._kept))]
                self._kept[arguments] = self._load(*arguments)
            return self._kept[arguments]

    def release(self) -> None:
        """Let go of the models, so that large ones of two kinds need not fit into memory together."""
        if not self._kept:
            return
        import torch

        self._kept.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@_Loaded
def segmenter(name: str, confidence: float, device: str, batch_size: int, max_workers: int | None) -> Segmenter:
    """The tissue segmenter, on its device."""
    from trident.segmentation.registry import segmentation_model_factory

    return segmentation_model_factory(
        name, confidence_thresh=confidence, device=device, batch_size=batch_size, max_workers=max_workers
    )


@_Loaded
def artifact_remover(penmarks_only: bool, device: str, batch_size: int, max_workers: int | None) -> NeuralSegmenter:
    """The model that removes artifacts from tissue, on its device."""
    from trident.segmentation import registry

    return registry.artifact_remover(
        penmarks_only=penmarks_only, device=device, batch_size=batch_size, max_workers=max_workers
    )


@_Loaded
def patch_encoder(name: str, weights_path: Path | None, img_size: int | None, device: str) -> PatchEncoder:
    """The patch encoder, in evaluation mode and on its device, in the place of a slide encoder."""
    from trident.encoders.patch.factory import encoder_factory

    slide_encoder.release()
    return encoder_factory(name, weights_path=weights_path, img_size=img_size).eval().to(device)


@_Loaded
def slide_encoder(name: str, device: str, trust_remote_code: bool) -> SlideEncoder:
    """The slide encoder, in evaluation mode and on its device. One with weights takes the patch encoder's place."""
    from trident.encoders.slide.factory import encoder_factory
    from trident.encoders.slide.registry import spec

    declared = spec(name)
    if declared.filenames:
        patch_encoder.release()
    options: dict[str, Any] = (
        {"trust_remote_code": trust_remote_code} if "trust_remote_code" in declared.options else {}
    )
    return encoder_factory(name, **options).eval().to(device)
