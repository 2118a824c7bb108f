"""Tissue segmenters under their familiar import path. Importing it loads no torch and touches no network."""

from __future__ import annotations

from trident.segmentation_models import load
from trident.segmentation_models.load import segmentation_model_factory

__all__ = ["load", "segmentation_model_factory"]
