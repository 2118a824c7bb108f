"""trident/slide_encoder_models: the familiar import path."""

from __future__ import annotations

import pytest

import trident.slide_encoder_models as models
from trident.encoders.slide.registry import AVAILABLE_SLIDE_ENCODERS
from trident.errors import SettingsError


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


def test_arguments_of_existing_scripts() -> None:
    mean = models.encoder_factory(model_name="mean-resnet50", pretrained=True, freeze=True)
    assert (mean.enc_name, mean.embedding_dim) == ("mean-resnet50", 1024)
    assert models.encoder_factory("mean-resnet50", pretrained=False).enc_name == "mean-resnet50"
    abmil = models.encoder_factory("abmil", pretrained=False, freeze=False, input_feature_dim=8, head_dim=4)
    assert abmil.training
    assert all(parameter.requires_grad for parameter in abmil.parameters())


@pytest.mark.parametrize("name", ["titan", "chief", "care", "gigapath"])
def test_what_is_of_use_only_with_weights_is_not_built_without(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is of use only with its weights"):
        models.encoder_factory(name, pretrained=False)


def test_no_weights_and_a_file_of_weights_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="exclude each other"):
        models.encoder_factory("abmil", pretrained=False, weights_path="some.pt", input_feature_dim=8)
