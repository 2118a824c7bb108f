"""Slide encoders under their familiar import path; the code is in `trident.encoders.slide`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.registry import AVAILABLE_SLIDE_ENCODERS, slide_to_patch_encoder_name

if TYPE_CHECKING:
    from trident.encoders.slide.base import SlideEncoder

__all__ = ["encoder_factory", "encoder_registry", "slide_to_patch_encoder_name"]

encoder_registry: Mapping[str, Callable[..., SlideEncoder]] = MappingProxyType(
    {name: partial(encoder_factory, name) for name in AVAILABLE_SLIDE_ENCODERS}
)
"""Encoders of this version: name -> function that builds it, with the options of `encoder_factory`."""
