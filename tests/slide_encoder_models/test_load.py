"""trident/slide_encoder_models: the familiar import path."""

from __future__ import annotations

import pytest

import trident.slide_encoder_models as models
from trident.encoders.slide.registry import AVAILABLE_SLIDE_ENCODERS


def test_names() -> None:
    from trident.encoders.slide.factory import encoder_factory
    from trident.slide_encoder_models.load import slide_to_patch_encoder_name

    assert models.encoder_factory is models.load.encoder_factory is encoder_factory
    assert models.slide_to_patch_encoder_name is slide_to_patch_encoder_name
    assert slide_to_patch_encoder_name["titan"] == "conch_v15"
    assert tuple(models.encoder_registry) == AVAILABLE_SLIDE_ENCODERS
    assert models.encoder_registry["mean-uni_v2"]().embedding_dim == 1536


def test_classes() -> None:
    from trident.encoders.slide.abmil import ABMILSlideEncoder
    from trident.encoders.slide.base import SlideEncoder
    from trident.encoders.slide.mean import MeanSlideEncoder

    assert models.ABMILSlideEncoder is models.load.ABMILSlideEncoder is ABMILSlideEncoder
    assert models.MeanSlideEncoder is MeanSlideEncoder
    assert models.SlideEncoder is SlideEncoder
    for module in (models, models.load):
        with pytest.raises(AttributeError, match="NoSuchEncoder"):
            module.NoSuchEncoder  # noqa: B018
