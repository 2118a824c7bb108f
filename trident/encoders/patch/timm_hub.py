"""`timm/<model>`: any model of timm as a patch encoder, without a declaration of ours.

Imports torch and timm: import this module lazily. Nothing is downloaded here: timm's own table says where the weights
are, and they are read as plain tensors like those of every other encoder.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from math import floor
from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg, is_model, list_models
from torch import nn

from trident.encoders.checkpoint import load_checkpoint
from trident.encoders.patch.registry import TIMM_PREFIX
from trident.encoders.patch.spec import PatchEncoderSpec, TransformSpec
from trident.errors import SettingsError, WeightsError

_FILENAMES = ("model.safetensors", "pytorch_model.bin")
_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")


@lru_cache(maxsize=16)
def declare(name: str) -> PatchEncoderSpec:
    """The declaration of `timm/<model>`, from timm's table of pretrained models.

    Magnification and patch size are not stated: these models have mostly seen photographs.

    Raises:
        SettingsError: timm has no such model, or one whose input is not a square RGB image.
    """
    architecture = name.removeprefix(TIMM_PREFIX)
    published = _published(name, architecture)
    transform, side_px = _transform(name, published)
    repo_id = published.get("hf_hub_id") or None
    filename = published.get("hf_hub_filename")
    return PatchEncoderSpec(
        name=name,
        builder="trident.encoders.patch.timm_hub:build",
        architecture=architecture,
        repo_id=repo_id,
        filenames=(filename,) if repo_id and filename else _FILENAMES,
        licence=published.get("license") or "not stated",
        transform=transform,
        input_size_px=side_px,
        fixed_size_reason="a timm model runs at its published input size",
        embedding_dim=None,
        precision="float32",
        magnification=None,
        patch_size_px=None,
    )


def build(spec: PatchEncoderSpec, weights: Path) -> nn.Module:
    """The model with its weights and without its classifier, in evaluation mode: (B, 3, H, W) -> (B, D).

    timm's own conversion of older names is applied. The weights may have the published classifier, another or none.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    state = load_checkpoint(weights)
    classifiers = _published(spec.name, spec.architecture).get("classifier") or ()
    prefixes = tuple(f"{one}." for one in ((classifiers,) if isinstance(classifiers, str) else classifiers))
    try:
        model = _create(spec.architecture, state)
        model.reset_classifier(0)  # type: ignore[operator]
    except _MISFIT as error:
        headless = {name: tensor for name, tensor in state.items() if not (prefixes and name.startswith(prefixes))}
        try:
            model = _create(spec.architecture, headless, num_classes=0)
        except _MISFIT:
            raise WeightsError(
                f"{weights}: these are not the weights of {spec.name}; {_one_line(error)}. "
                "Check that the file belongs to the model"
            ) from error
    return model.float().eval()


_MISFIT = (RuntimeError, KeyError, AttributeError, ValueError, IndexError)
"""What a model, or timm's conversion of names, raises on tensors of another model."""


def _create(architecture: str, state: dict[str, Any], **classes: Any) -> nn.Module:
    # A copy of the dict: timm takes out what it has converted. With equal numbers of classes it loads strictly.
    overlay: dict[str, Any] = {"state_dict": dict(state), **classes}
    model: nn.Module = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, **classes)
    return model


def _published(name: str, architecture: str) -> dict[str, Any]:
    """timm's table of this model, empty where it has none."""
    try:
        known = is_model(architecture)
        published = get_pretrained_cfg(architecture) if known else None
    except RuntimeError:  # a model, but not such a set of weights
        known, published = False, None
    if not known:
        close = difflib.get_close_matches(architecture, list_models() + list_models(pretrained=True), n=1, cutoff=0.5)
        hint = f"; did you mean {TIMM_PREFIX}{close[0]}?" if close else ""
        raise SettingsError(f"patch encoder {name}: timm {timm.__version__} has no such model{hint}")
    return {} if published is None else dict(published.to_dict())  # type: ignore[no-untyped-call]


def _transform(name: str, published: dict[str, Any]) -> tuple[TransformSpec, int]:
    """timm's evaluation transform, in our terms, and the side of the input in pixels."""
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=published)  # type: ignore[no-untyped-call]
    channels, height_px, width_px = config["input_size"]
    if channels != 3 or height_px != width_px:
        raise SettingsError(
            f"patch encoder {name}: its input is {channels} x {height_px} x {width_px}, not a square RGB image"
        )
    if config["interpolation"] not in _INTERPOLATIONS:
        raise SettingsError(f"patch encoder {name}: its interpolation {config['interpolation']!r} is not supported")
    # For square patches timm's third mode, "border", is the same as the default, which keeps the aspect.
    transform = TransformSpec(
        floor(height_px / config["crop_pct"]),
        height_px,
        config["interpolation"],
        tuple(config["mean"]),
        tuple(config["std"]),
        keep_aspect=config["crop_mode"] != "squash",
    )
    return transform, height_px


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2])[:300]
