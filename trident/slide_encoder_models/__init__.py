"""Slide encoders under their familiar import path. Importing it loads no torch and touches no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trident.slide_encoder_models import load
from trident.slide_encoder_models.load import encoder_factory, encoder_registry, slide_to_patch_encoder_name

if TYPE_CHECKING:
    from trident.encoders.slide.abmil import ABMILSlideEncoder
    from trident.encoders.slide.base import SlideEncoder
    from trident.encoders.slide.mean import MeanSlideEncoder

__all__ = [
    "ABMILSlideEncoder",
    "MeanSlideEncoder",
    "SlideEncoder",
    "encoder_factory",
    "encoder_registry",
    "load",
    "slide_to_patch_encoder_name",
]


def __getattr__(name: str) -> object:
    # Classes of torch's: loaded when they are first asked for.
    if name in load.LAZY:
        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
