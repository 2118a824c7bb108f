"""Patch encoders under their familiar import path. Importing it loads no torch and touches no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trident.patch_encoder_models import load
from trident.patch_encoder_models.load import encoder_factory, encoder_registry

if TYPE_CHECKING:
    from trident.encoders.patch.base import CustomInferenceEncoder

__all__ = ["CustomInferenceEncoder", "encoder_factory", "encoder_registry", "load"]


def __getattr__(name: str) -> object:
    # A class of torch's: loaded when it is first asked for.
    if name == "CustomInferenceEncoder":
        return load.CustomInferenceEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
