"""trident/patch_encoder_models: the familiar import path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trident.patch_encoder_models as models
from trident.encoders.patch.registry import AVAILABLE_PATCH_ENCODERS


def test_names() -> None:
    from trident.encoders.patch.base import CustomInferenceEncoder
    from trident.encoders.patch.factory import encoder_factory
    from trident.patch_encoder_models.load import encoder_factory as from_load

    assert models.encoder_factory is from_load is encoder_factory
    assert models.CustomInferenceEncoder is models.load.CustomInferenceEncoder is CustomInferenceEncoder
    assert tuple(models.encoder_registry) == AVAILABLE_PATCH_ENCODERS
    assert models.encoder_registry["stain-stats"]().enc_name == "stain-stats"
    assert models.encoder_factory(model_name="stain-stats").enc_name == "stain-stats"


@pytest.mark.parametrize("module", [models, models.load])
def test_other_names_are_absent(module: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense  # type: ignore[attr-defined]


def test_import_is_light_and_opens_no_socket() -> None:
    code = """
import socket, sys
def refuse(*_): raise AssertionError("the network is touched at import")
socket.socket.connect = socket.getaddrinfo = refuse
import trident.patch_encoder_models, trident.patch_encoder_models.load
import trident.slide_encoder_models, trident.slide_encoder_models.load
assert not {"torch", "timm", "huggingface_hub"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=True)
