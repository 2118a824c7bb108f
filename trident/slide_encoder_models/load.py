"""Slide encoders under their familiar import path; the code is in `trident.encoders.slide`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.registry import AVAILABLE_SLIDE_ENCODERS, slide_to_patch_encoder_name

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
    "slide_to_patch_encoder_name",
]

LAZY: Mapping[str, str] = MappingProxyType(
    {
        "ABMILSlideEncoder": "trident.encoders.slide.abmil",
        "MeanSlideEncoder": "trident.encoders.slide.mean",
        "SlideEncoder": "trident.encoders.slide.base",
    }
)
"""Classes of torch's, loaded when they are first asked for: name -> module."""

encoder_registry: Mapping[str, Callable[..., SlideEncoder]] = MappingProxyType(
    {name: partial(encoder_factory, name) for name in AVAILABLE_SLIDE_ENCODERS}
)
"""Encoders of this version: name -> function that builds it, with the options of `encoder_factory`."""


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
