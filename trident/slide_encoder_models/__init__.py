"""Slide encoders under their familiar import path. Importing it loads no torch and touches no network."""

from __future__ import annotations

from trident.slide_encoder_models import load
from trident.slide_encoder_models.load import encoder_factory, encoder_registry, slide_to_patch_encoder_name

__all__ = ["encoder_factory", "encoder_registry", "load", "slide_to_patch_encoder_name"]
