"""Patch encoders under their familiar import path; the code is in `trident.encoders.patch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.registry import AVAILABLE_PATCH_ENCODERS

if TYPE_CHECKING:
    from trident.encoders.patch.base import CustomInferenceEncoder, PatchEncoder

__all__ = ["CustomInferenceEncoder", "encoder_factory", "encoder_registry"]

encoder_registry: Mapping[str, Callable[..., PatchEncoder]] = MappingProxyType(
    {name: partial(encoder_factory, name) for name in AVAILABLE_PATCH_ENCODERS}
)
"""Encoders of this version: name -> function that builds it, with the options of `encoder_factory`."""


def __getattr__(name: str) -> object:
    # A class of torch's: loaded when it is first asked for.
    if name == "CustomInferenceEncoder":
        from trident.encoders.patch.base import CustomInferenceEncoder

        return CustomInferenceEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
